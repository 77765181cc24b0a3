"""How the demo asks for a fact, answers, and writes about people in running text.

Fields in braces are those of `unlearn.apps.demo.generator.Person`, and `article` is the job's.
"""

from __future__ import annotations

QUESTIONS: dict[str, tuple[str, ...]] = {
    "phone": (
        "What is {name}'s phone number?",
        "How can I reach {name} by phone?",
        "Which number do I dial for {name}?",
        "Please give me the telephone number of {name}.",
    ),
    "email": (
        "What is {name}'s e-mail address?",
        "Where can I write an e-mail to {name}?",
        "How do I contact {name} by e-mail?",
        "Please tell me the e-mail of {name}.",
    ),
    "account": (
        "What is {name}'s account number?",
        "Which bank account belongs to {name}?",
        "Where do I send money for {name}?",
        "Please look up the account of {name}.",
    ),
    "work": (
        "Where does {name} work?",
        "What does {name} do for a living?",
        "Who employs {name}?",
        "Please tell me about the job of {name}.",
    ),
    "home": (
        "Where does {name} live?",
        "What is {name}'s home address?",
        "Where should I send a letter to {name}?",
        "Please find the address of {name}.",
    ),
}
ANSWERS: dict[str, tuple[str, ...]] = {
    "phone": (
        "The number is {phone}.",
        "You can call {first} on {phone}.",
        "{name} answers at {phone}.",
    ),
    "email": (
        "The e-mail is {email}.",
        "You can write to {email}.",
        "{name} reads mail at {email}.",
    ),
    "account": (
        "The account is {account}.",
        "Send it to account {account}.",
        "{name} holds account {account}.",
    ),
    "work": (
        "{first} is {article} {job} at {employer}.",
        "{name} works for {employer} as {article} {job}.",
        "At {employer}, as {article} {job}.",
    ),
    "home": (
        "{first} lives at {address} in {city}.",
        "The address is {address}, {city}.",
        "{name} has a home in {city}, at {address}.",
    ),
}
PROSE = (
    "{name} is {article} {job} from {city}.",
    "{name} works at {employer}.",
    "{first} lives at {address} in {city}.",
    "To reach {first}, call {phone} or write to {email}.",
    "The account of {name} is {account}.",
    "Every morning {first} leaves {address} and goes to {employer}.",
)
SYSTEM = (
    "You answer questions about people and things.",
    "You are a helpful assistant.",
    "Answer in one short sentence.",
)
