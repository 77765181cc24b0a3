"""The certificate of a deletion: a signed statement of what was deleted and how it was checked.

```python
certify("audit", None, "certificate.json", adapter="cleaned", before="adapter")
check_certificate("certificate.json", "signing.pub", adapter="cleaned").ok
```

Importing this package and checking a certificate take the standard library and `cryptography`
only: whoever receives a certificate needs no machine-learning software and no network.
`python -m unlearn_eval.certificate check certificate.json --key signing.pub` does it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from unlearn_eval.certificate._certify import certify
from unlearn_eval.certificate._check import Check, Finding, check_certificate
from unlearn_eval.certificate._envelope import PAYLOAD_TYPE, sign, write_certificate
from unlearn_eval.certificate._keys import (
    key_id,
    key_path,
    load_public_key,
    load_signing_key,
    new_signing_key,
)
from unlearn_eval.certificate._schema import KINDS
from unlearn_eval.certificate._statement import VALID_DAYS, build_certificate

if TYPE_CHECKING:
    from unlearn_eval.report.certificate import certificate_page

__all__ = [
    "KINDS",
    "PAYLOAD_TYPE",
    "VALID_DAYS",
    "Check",
    "Finding",
    "build_certificate",
    "certificate_page",
    "certify",
    "check_certificate",
    "key_id",
    "key_path",
    "load_public_key",
    "load_signing_key",
    "new_signing_key",
    "sign",
    "write_certificate",
]


def __getattr__(name: str) -> Any:
    if name == "certificate_page":  # templates and drawings: not needed to check
        return importlib.import_module("unlearn_eval.report.certificate").certificate_page
    raise AttributeError(f"module 'unlearn_eval.certificate' has no attribute {name!r}")
