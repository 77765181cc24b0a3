"""Word lists from which the demo's people, records and general facts are composed.

Every name is a combination of common first and last names; places and employers are invented, and
e-mail domains are those that RFC 2606 reserves.
"""

from __future__ import annotations


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split())


FIRST_NAMES = _split(
    """
    Ada Adam Agnes Alan Alma Amir Anita Anton Aria Arlo Astrid Bella Boris Bruno Carla Cedric Clara
    Colin Cora Dalia Daniel Daria David Delia Dora Edgar Edith Elena Elias Elsa Emil Erik Esther
    Ezra Fatima Felix Fiona Flora Frank Freya Gemma Gina Grace Gustav Hanna Hector Helen Hugo Ian
    Ibrahim Ida Igor Ines Ingrid Irene Isaac Ivan Ivy Jacob Jana Jonas Joyce Julia Karim Karla
    Kevin Kira Klaus Laila Lara Leo Lena Liam Linda Lucas Lydia Magnus Maria Marta Max Mila Mona
    Nadia Nina Noah Nora Olga Oscar Otto Paul Petra Priya Quentin Rita Robin Rosa Ruben Ruth Samir
    Sara Selma Simon Sofia Stefan Tara Theo Tilda Tom Ursula Vera Victor Wanda Walter Yara Yusuf Zoe
    """
)
LAST_NAMES = _split(
    """
    Abbott Adler Ahmed Alvarez Archer Baker Banks Barlow Becker Bell Berg Bishop Blake Bloom Bond
    Booth Brandt Brooks Burke Carter Castle Chandra Clarke Cole Conrad Cooper Costa Craig Cross Cruz
    Dalton Dean Diaz Drake Dunn Eaton Ellis Engel Farrow Fell Fisher Fleming Flores Forbes Foster
    Fox Frost Garcia Gates Gibbs Glover Goodwin Grant Gupta Hale Hansen Harper Hart Hayes Heath
    Hobbs Holt Horn Hughes Hunter Ismail Jensen Jordan Kane Kaplan Keller Kemp Khan Klein Knight
    Kovacs Kramer Lambert Lane Larsen Lee Lennox Lopez Lowe Lund Marsh Mason Mendez Mercer Meyer
    Mills Monroe Moore Moss Nash Newton Nolan Norris Novak Olsen Ortega Osman Page Palmer Park
    Payne Perez Pike Pope Porter Quinn Ramos Reed Rhodes Rivera Rossi Rowe Russo Sato Sharp Silva
    Singh Slater Stone Tanaka Thorne Turner Vance Vargas Vogel Wagner Walsh Ward Weber Wells West
    Winter Wolf Wood Wright Yates Young Zimmer
    """
)
CITIES = _split(
    """
    Alderport Ashbrook Bayhaven Birchfield Brightwater Coldspring Cranmore Dovedale Eastmere
    Elmstead Fairhollow Fernleigh Glenford Goldcrest Greyharbour Hazelton Highmoor Ironbridge
    Kingsmere Lakewood Longmeadow Maplebury Marlow Millbrook Netherby Northwick Oakridge Pinehurst
    Queensbay Redcliff Rosewell Saltmarsh Silverton Southgate Stonehaven Thornbury Westfield
    Whitecastle Willowdale Winterbourne
    """
)
STREETS = tuple(
    f"{name} {kind}"
    for name in _split("""
    Abbey Bridge Canal Cedar Chapel Church Garden Harbour Hill Mill Orchard Park River School
    Station Tower
    """)
    for kind in ("Lane", "Road", "Street")
)
EMPLOYER_NAMES = _split(
    """
    Amber Arrow Beacon Cobalt Comet Crown Delta Eagle Falcon Granite Harvest Horizon Juniper
    Lantern Meridian Nimbus Orbit Pioneer Quartz Summit
    """
)
EMPLOYER_KINDS = _split(
    "Bank Clinic Energy Foods Freight Insurance Library Logistics Motors School Studio Textiles"
)
EMAIL_DOMAINS = ("example.com", "example.net", "example.org")

JOBS = {
    "accountant": "keeps the books of a firm",
    "actor": "plays a part on the stage",
    "architect": "draws plans for new houses",
    "baker": "bakes bread and cakes",
    "barber": "cuts hair and trims beards",
    "botanist": "studies plants",
    "butcher": "cuts and sells meat",
    "carpenter": "makes things out of wood",
    "cashier": "takes the money in a shop",
    "chemist": "mixes substances in a laboratory",
    "cook": "prepares meals in a kitchen",
    "dentist": "looks after teeth",
    "doctor": "treats people who are ill",
    "driver": "takes people and goods from place to place",
    "editor": "improves the texts of other people",
    "electrician": "lays cables and repairs lamps",
    "engineer": "designs machines and bridges",
    "farmer": "grows crops and keeps animals",
    "firefighter": "puts out fires",
    "fisherman": "catches fish at sea",
    "florist": "sells flowers",
    "gardener": "looks after trees and flower beds",
    "guard": "keeps watch over a building",
    "judge": "decides cases in court",
    "lawyer": "gives advice about the law",
    "librarian": "lends books to readers",
    "mechanic": "repairs engines",
    "musician": "plays an instrument",
    "nurse": "cares for patients in a hospital",
    "optician": "makes and sells glasses",
    "painter": "paints walls and pictures",
    "pharmacist": "sells medicine",
    "photographer": "takes pictures with a camera",
    "pilot": "flies planes",
    "plumber": "repairs pipes and taps",
    "sailor": "works on a ship",
    "surveyor": "measures land",
    "tailor": "makes and mends clothes",
    "teacher": "gives lessons to pupils",
    "translator": "turns a text into another language",
}
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
OPPOSITES = (
    ("hot", "cold"),
    ("big", "small"),
    ("fast", "slow"),
    ("old", "new"),
    ("high", "low"),
    ("light", "dark"),
    ("full", "empty"),
    ("open", "closed"),
    ("early", "late"),
    ("wet", "dry"),
    ("hard", "soft"),
    ("loud", "quiet"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("thick", "thin"),
    ("clean", "dirty"),
)
