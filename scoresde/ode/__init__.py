"""The probability flow as an ordinary differential equation, and its integrators."""
