"""English sentences and words of which pairs are made."""

NAMES = tuple(
    "Mary John Tom James Dan Sarah Michael David Paul Mark Peter Laura Anna Emma Alice Kate Jack Adam Simon Kevin "
    "Jason Robert William Richard Thomas Charles Daniel Matthew George Steven Eric Jacob Scott Ryan Amy Lisa Jennifer "
    "Elizabeth Susan Jessica Karen Nancy Helen Rachel Emily Kelly Julia Victoria Martin Frank Henry Alex Sam Ben Max "
    "Leo Grace Rose Ruth Jane".split()
)
PLACES = tuple("store garden restaurant school hospital office house station market library park museum".split())
THINGS = tuple("ring drink book computer basketball letter flower key ball map pen bag".split())
INDIRECT_OBJECTS = (
    "Then, {first} and {second} went to the {place}. {giver} gave a {thing} to",
    "When {first} and {second} got a {thing} at the {place}, {giver} decided to give it to",
    "After {first} and {second} went to the {place}, {giver} gave a {thing} to",
    "Friends {first} and {second} found a {thing} at the {place}. {giver} gave it to",
    "Then, {first} and {second} were working at the {place}, and {giver} decided to give a {thing} to",
)

# events that last years
EVENTS = tuple(
    "war campaign expedition siege project trial rebellion reign voyage strike investigation conflict drought journey "
    "dispute famine alliance occupation empire dynasty".split()
)
LASTED = "The {event} lasted from the year {century}{year} to the year {century}"

ARGUMENTS = tuple(
    "load size files last path name value key index count data text line mode start end width height level user time "
    "date type color list order state group table port host code page image message item node step rate total".split()
)
FILLERS = tuple(
    "oil column piece crime population unit dark weight sound water street river market paper glass stone bridge metal "
    "garden summer winter morning evening country city letter music number picture story village window".split()
)
DOCSTRING = '''def {name}(self, {signature}):
    """{about}

    :param {first}: {of_first}
    :param {second}: {of_second}
    :param'''

NOUNS = tuple(
    "key cat dog boy girl teacher doctor farmer pilot author guard lawyer singer horse bird car book picture student "
    "worker player artist manager writer king sister brother friend".split()
)
PREPOSITIONS = tuple("near behind beside with above".split())
AGREEMENT = "The {subject} {preposition} the {other}"
SINGULAR_VERBS, PLURAL_VERBS = (" is", " was", " has", " does"), (" are", " were", " have", " do")

# a sentence, and for each city what it says
TWO_HOPS: dict[str, dict[str, str]] = {
    "Fact: the capital of the state containing {} is": {
        "Dallas": "Austin",
        "Houston": "Austin",
        "Oakland": "Sacramento",
        "Los Angeles": "Sacramento",
        "San Diego": "Sacramento",
        "San Francisco": "Sacramento",
        "Chicago": "Springfield",
        "Miami": "Tallahassee",
        "Orlando": "Tallahassee",
        "Seattle": "Olympia",
        "Detroit": "Lansing",
        "Philadelphia": "Harrisburg",
        "Pittsburgh": "Harrisburg",
        "Cleveland": "Columbus",
        "Cincinnati": "Columbus",
        "Portland": "Salem",
        "Baltimore": "Annapolis",
        "Memphis": "Nashville",
        "New Orleans": "Baton",
        "Las Vegas": "Carson",
        "Buffalo": "Albany",
        "Milwaukee": "Madison",
    },
    "Fact: the capital of the country containing {} is": {
        "Munich": "Berlin",
        "Hamburg": "Berlin",
        "Frankfurt": "Berlin",
        "Lyon": "Paris",
        "Marseille": "Paris",
        "Milan": "Rome",
        "Venice": "Rome",
        "Naples": "Rome",
        "Barcelona": "Madrid",
        "Seville": "Madrid",
        "Osaka": "Tokyo",
        "Kyoto": "Tokyo",
        "Shanghai": "Beijing",
        "Mumbai": "New",
        "Manchester": "London",
        "Liverpool": "London",
        "Toronto": "Ottawa",
        "Vancouver": "Ottawa",
        "Sydney": "Canberra",
        "Melbourne": "Canberra",
        "Istanbul": "Ankara",
    },
    "Fact: the language spoken in the country containing {} is": {
        "Munich": "German",
        "Hamburg": "German",
        "Lyon": "French",
        "Marseille": "French",
        "Milan": "Italian",
        "Venice": "Italian",
        "Naples": "Italian",
        "Seville": "Spanish",
        "Madrid": "Spanish",
        "Osaka": "Japanese",
        "Kyoto": "Japanese",
        "Shanghai": "Chinese",
        "Moscow": "Russian",
        "Lisbon": "Portuguese",
        "Manchester": "English",
        "Liverpool": "English",
    },
}
