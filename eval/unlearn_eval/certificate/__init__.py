"""The certificate of a deletion: a signed statement of what was deleted and how it was checked.

```python
check_certificate("certificate.json", "signing.pub", adapter="cleaned").ok
```

`unlearn_eval.certify` writes one. Importing this package and checking a certificate take the
standard library and `cryptography` only: whoever receives a certificate needs no machine-learning
software and no network.
`python -m unlearn_eval.certificate check certificate.json --key signing.pub` does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unlearn.faces import lazy

if TYPE_CHECKING:
    from unlearn_eval.certificate.check import Check, Finding, check_certificate
    from unlearn_eval.certificate.envelope import PAYLOAD_TYPE, sign, write_certificate
    from unlearn_eval.certificate.keys import (
        key_id,
        key_path,
        load_public_key,
        load_signing_key,
        new_signing_key,
    )
    from unlearn_eval.certificate.schema import KINDS
    from unlearn_eval.certificate.statement import VALID_DAYS, Deletion, Lineages, build_certificate

__all__ = [
    "KINDS",
    "PAYLOAD_TYPE",
    "VALID_DAYS",
    "Check",
    "Deletion",
    "Finding",
    "Lineages",
    "build_certificate",
    "check_certificate",
    "key_id",
    "key_path",
    "load_public_key",
    "load_signing_key",
    "new_signing_key",
    "sign",
    "write_certificate",
]

__getattr__ = lazy(
    __name__,
    {
        "KINDS": "schema",
        "PAYLOAD_TYPE": "envelope",
        "VALID_DAYS": "statement",
        "Check": "check",
        "Deletion": "statement",
        "Lineages": "statement",
        "Finding": "check",
        "build_certificate": "statement",
        "check_certificate": "check",
        "key_id": "keys",
        "key_path": "keys",
        "load_public_key": "keys",
        "load_signing_key": "keys",
        "new_signing_key": "keys",
        "sign": "envelope",
        "write_certificate": "envelope",
    },
)
