"""List the peers that are here, and those that are not."""

from . import KINDS, absent, available

for kind in KINDS:
    for peer in available(kind):
        print(f"{kind:14} {peer.package} {peer.version}: {peer.name}", peer.note or "", sep="  ")
for package, reason in absent().items():
    print(f"{'absent':14} {package}: {reason}")
