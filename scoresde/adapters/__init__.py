"""Other libraries' models as predictors, imported only when used."""
