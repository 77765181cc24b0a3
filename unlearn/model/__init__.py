"""Models and adapters: opening, switching, scoring, generating, saving."""

import logging

# PEFT imports it where it is there, and it says that it would rather run code from the hub
logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)
