"""Tables of the English verbaliser: units, currencies, symbols, months, abbreviations, idioms."""


def _pairs(listed: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in listed.split(", "))


CURRENCIES = {
    "$": ("dollar", "dollars", "cent", "cents"),
    "€": ("euro", "euros", "cent", "cents"),
    "£": ("pound", "pounds", "penny", "pence"),
    "¥": ("yen", "yen", "", ""),
    "₹": ("rupee", "rupees", "paisa", "paise"),
    "₩": ("won", "won", "", ""),
    "₽": ("ruble", "rubles", "kopek", "kopeks"),
    "₺": ("lira", "lira", "", ""),
    "₿": ("bitcoin", "bitcoin", "", ""),
}
"""Currency symbol to (unit, plural of the unit, hundredth, plural of the hundredth); "" where no hundredth is in use."""

DOLLARS = {
    "US": "U S",
    "CA": "Canadian",
    "C": "Canadian",
    "AU": "Australian",
    "A": "Australian",
    "NZ": "New Zealand",
    "HK": "Hong Kong",
}
"""Country code before "$" to the adjective that is spoken."""

SCALES = {"k": "thousand", "K": "thousand", "m": "million", "M": "million", "mn": "million", "mm": "million", "MM": "million"}
SCALES |= {"b": "billion", "B": "billion", "bn": "billion", "t": "trillion", "T": "trillion", "tn": "trillion", "trn": "trillion"}
"""Abbreviated scale directly after an amount of money ("$5m")."""

NUMBER_SCALES = ("k", "K", "M", "mn", "B", "bn", "tn")
"""The scales that are unambiguous after any number; "5m" is five meters, so "m" is not one of them."""

SCALE_WORDS = ("hundred", "thousand", "million", "billion", "trillion")

UNITS = {
    **dict.fromkeys(("km", "Km", "KM"), ("kilometer", "kilometers")),
    **dict.fromkeys(("kg", "Kg", "KG"), ("kilogram", "kilograms")),
    **dict.fromkeys(("kph", "km/h", "kmh", "km/hr"), ("kilometer per hour", "kilometers per hour")),
    **dict.fromkeys(("mph", "MPH", "mi/h"), ("mile per hour", "miles per hour")),
    **dict.fromkeys(("lb", "lbs"), ("pound", "pounds")),
    **dict.fromkeys(("l", "L"), ("liter", "liters")),
    **dict.fromkeys(("ml", "mL"), ("milliliter", "milliliters")),
    **dict.fromkeys(("µg", "μg", "mcg"), ("microgram", "micrograms")),
    **dict.fromkeys(("µm", "μm"), ("micrometer", "micrometers")),
    **dict.fromkeys(("µs", "μs"), ("microsecond", "microseconds")),
    **dict.fromkeys(("h", "hr", "hrs"), ("hour", "hours")),
    **dict.fromkeys(("min", "mins"), ("minute", "minutes")),
    **dict.fromkeys(("s", "sec", "secs"), ("second", "seconds")),
    **dict.fromkeys(("yr", "yrs"), ("year", "years")),
    **dict.fromkeys(("kB", "KB", "kb"), ("kilobyte", "kilobytes")),
    **dict.fromkeys(("m²", "m2", "sqm"), ("square meter", "square meters")),
    **dict.fromkeys(("m³", "m3"), ("cubic meter", "cubic meters")),
    **dict.fromkeys(("Ω", "Ω"), ("ohm", "ohms")),
    **dict.fromkeys(("kbps", "Kbps"), ("kilobit per second", "kilobits per second")),
    **dict.fromkeys(("°C", "℃", "ºC"), ("degree Celsius", "degrees Celsius")),
    **dict.fromkeys(("°F", "℉", "ºF"), ("degree Fahrenheit", "degrees Fahrenheit")),
    **dict.fromkeys(("%", "％", "٪"), ("percent", "percent")),
    **{symbol: names[:2] for symbol, names in CURRENCIES.items()},
    "m": ("meter", "meters"),
    "cm": ("centimeter", "centimeters"),
    "mm": ("millimeter", "millimeters"),
    "nm": ("nanometer", "nanometers"),
    "mi": ("mile", "miles"),
    "ft": ("foot", "feet"),
    "in": ("inch", "inches"),
    "yd": ("yard", "yards"),
    "g": ("gram", "grams"),
    "mg": ("milligram", "milligrams"),
    "oz": ("ounce", "ounces"),
    "cl": ("centiliter", "centiliters"),
    "dl": ("deciliter", "deciliters"),
    "ms": ("millisecond", "milliseconds"),
    "ns": ("nanosecond", "nanoseconds"),
    "Hz": ("hertz", "hertz"),
    "kHz": ("kilohertz", "kilohertz"),
    "MHz": ("megahertz", "megahertz"),
    "GHz": ("gigahertz", "gigahertz"),
    "MB": ("megabyte", "megabytes"),
    "GB": ("gigabyte", "gigabytes"),
    "TB": ("terabyte", "terabytes"),
    "PB": ("petabyte", "petabytes"),
    "KiB": ("kibibyte", "kibibytes"),
    "MiB": ("mebibyte", "mebibytes"),
    "GiB": ("gibibyte", "gibibytes"),
    "Mbps": ("megabit per second", "megabits per second"),
    "Gbps": ("gigabit per second", "gigabits per second"),
    "MB/s": ("megabyte per second", "megabytes per second"),
    "GB/s": ("gigabyte per second", "gigabytes per second"),
    "m/s": ("meter per second", "meters per second"),
    "km/s": ("kilometer per second", "kilometers per second"),
    "m/s²": ("meter per second squared", "meters per second squared"),
    "W": ("watt", "watts"),
    "kW": ("kilowatt", "kilowatts"),
    "MW": ("megawatt", "megawatts"),
    "GW": ("gigawatt", "gigawatts"),
    "Wh": ("watt hour", "watt hours"),
    "kWh": ("kilowatt hour", "kilowatt hours"),
    "mAh": ("milliamp hour", "milliamp hours"),
    "mA": ("milliamp", "milliamps"),
    "V": ("volt", "volts"),
    "kV": ("kilovolt", "kilovolts"),
    "dB": ("decibel", "decibels"),
    "px": ("pixel", "pixels"),
    "hp": ("horsepower", "horsepower"),
    "kcal": ("kilocalorie", "kilocalories"),
    "cal": ("calorie", "calories"),
    "kJ": ("kilojoule", "kilojoules"),
    "kPa": ("kilopascal", "kilopascals"),
    "psi": ("pound per square inch", "pounds per square inch"),
    "rpm": ("revolution per minute", "revolutions per minute"),
    "fps": ("frame per second", "frames per second"),
    "bpm": ("beat per minute", "beats per minute"),
    "mpg": ("mile per gallon", "miles per gallon"),
    "ppm": ("part per million", "parts per million"),
    "tsp": ("teaspoon", "teaspoons"),
    "tbsp": ("tablespoon", "tablespoons"),
    "gal": ("gallon", "gallons"),
    "km²": ("square kilometer", "square kilometers"),
    "cm²": ("square centimeter", "square centimeters"),
    "mm²": ("square millimeter", "square millimeters"),
    "ft²": ("square foot", "square feet"),
    "in²": ("square inch", "square inches"),
    "cm³": ("cubic centimeter", "cubic centimeters"),
    "ft³": ("cubic foot", "cubic feet"),
    "°": ("degree", "degrees"),
    "‰": ("per mille", "per mille"),
    "¢": ("cent", "cents"),
    "x": ("time", "times"),
    "×": ("time", "times"),
}
"""Unit after a number to its spoken singular and plural."""

ATTACHED_UNITS = frozenset({"in", "x", "×"})
"""Units that are recognised only directly after the number: in "5 in" the "in" may be a preposition."""

PER = {"mo": "month", "yr": "year", "wk": "week", "hr": "hour", "h": "hour", "min": "minute", "s": "second", "sec": "second"}
PER |= {"kg": "kilogram", "g": "gram", "lb": "pound", "oz": "ounce", "l": "liter", "L": "liter", "km": "kilometer", "mi": "mile"}
PER |= {
    word: word for word in "day week month year hour minute second night person user head seat share unit item gallon mile".split()
}
"""Denominator after a slash to its spoken form: "$5/mo"."""

SYMBOLS = {
    "&": "and",
    "+": "plus",
    "=": "equals",
    "@": "at",
    "#": "hash",
    "%": "percent",
    "％": "percent",
    "‰": "per mille",
    "/": "slash",
    "~": "tilde",
    "<": "less than",
    ">": "greater than",
    "≤": "less than or equal to",
    "≥": "greater than or equal to",
    "≠": "not equal to",
    "≈": "approximately",
    "−": "minus",
    "×": "times",
    "÷": "divided by",
    "±": "plus or minus",
    "°": "degrees",
    "℃": "degrees Celsius",
    "℉": "degrees Fahrenheit",
    "©": "copyright",
    "®": "registered",
    "™": "trademark",
    "→": "to",
    "∞": "infinity",
    "√": "square root of",
    "²": "squared",
    "³": "cubed",
    "№": "number",
    "§": "section",
    "¶": "paragraph",
    "¢": "cents",
    **{symbol: names[0] for symbol, names in CURRENCIES.items()},
}
"""Symbol to its spoken form, used where no rule for its context matches."""

MONTHS = "January February March April May June July August September October November December".split()
MONTH_ABBREVIATIONS = {name[:3]: name for name in MONTHS if name != "May"} | {"Sept": "September"}
DAYS = {name[:3]: name for name in "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()}
DAYS |= {"Tues": "Tuesday", "Thur": "Thursday", "Thurs": "Thursday"}

IDIOMS = {
    "24/7": "twenty-four seven",
    "9/11": "nine eleven",
    "50/50": "fifty fifty",
    "20/20": "twenty twenty",
    "80/20": "eighty twenty",
    "50-50": "fifty fifty",
    "401k": "four oh one k",
    "4K": "four K",
    "8K": "eight K",
    "and/or": "and or",
    "w/o": "without",
    "c/o": "care of",
    "wwi": "World War One",
    "wwii": "World War Two",
    "->": "to",
    "=>": "to",
    "!=": "not equal to",
}
"""Whole words whose spoken form does not follow from the rules."""

TITLES = _pairs(
    "mr=Mister, mrs=Missus, ms=Miz, dr=Doctor, prof=Professor, st=Saint, mt=Mount, gen=General, col=Colonel, "
    "capt=Captain, lt=Lieutenant, sgt=Sergeant, rev=Reverend, gov=Governor, sen=Senator, rep=Representative, "
    "pres=President, hon=Honorable, ft=Fort, messrs=Messieurs"
)
"""Abbreviated title before a name. Those in `TITLES_WITHOUT_STOP` are also written without a full stop."""
TITLES_WITHOUT_STOP = ("mr", "mrs", "ms", "dr", "prof", "st", "mt")

STREETS = {"st": "Street", "dr": "Drive", "ave": "Avenue", "blvd": "Boulevard", "rd": "Road", "ln": "Lane", "hwy": "Highway"}
"""Abbreviated kind of street after its name."""

NUMBERED = _pairs(
    "no=number, nos=numbers, p=page, pp=pages, fig=figure, figs=figures, vol=volume, ch=chapter, sec=section, "
    "eq=equation, art=article, para=paragraph, ext=extension, apt=apartment, rm=room, pt=part, ca=circa, c=circa, "
    "op=opus, tel=telephone"
)
"""Abbreviations that are expanded only before a number."""

INNER = _pairs(
    "e.g=for example, i.e=that is, vs=versus, approx=approximately, cf=compare, viz=namely, incl=including, "
    "excl=excluding, a.k.a=also known as, avg=average, sq=square"
)
"""Abbreviations that never end a sentence, so their full stop is dropped."""

FINAL = _pairs(
    "etc=et cetera, dept=department, jr=Junior, sr=Senior, inc=Incorporated, ltd=Limited, co=Company, "
    "corp=Corporation, univ=University, govt=government, intl=international, misc=miscellaneous, bldg=building"
)
"""Abbreviations that may end a sentence; there the full stop is kept."""

CAPITALISED = ("jr", "sr", "inc", "co", "corp", "univ")
"""Entries of `FINAL` that mean something else in lower case."""

REGNAL_TITLES = "King Queen Pope Prince Emperor Tsar Czar".split()
REGNAL_NAMES = (
    "Henry Louis Elizabeth Charles George Edward Richard James William Philip Napoleon Francis Benedict Paul Pius".split()
)
REGNAL_NAMES += "Gregory Alexander Catherine Nicholas Peter Ivan Frederick Leo Ferdinand Clement Innocent Ramses".split()
NUMBERED_THINGS = "Chapter Part Volume Vol Book Act Scene Section Article Phase Stage Type Class Level Appendix Title Unit".split()
NUMBERED_THINGS += ["Lesson", "Episode", "Season", "Division", "Mark", "War", "Super Bowl", "Figure", "Table", "Ch", "Fig", "Pt"]
"""Words before a Roman numeral: rulers take an ordinal ("the eighth"), numbered things a cardinal ("four")."""

SUFFIXES = (
    "com org net edu gov io ai dev app info co uk de fr eu ca au jp js ts py rs cpp txt pdf html htm css md json csv xml".split()
)
SUFFIXES += "yaml yml toml png jpg jpeg gif svg mp3 mp4 wav zip gz exe doc docx xls xlsx ppt pptx".split()
"""Endings of host and file names, before which the full stop is spoken as "dot"; none of them is an English word."""

ADDRESS_SIGNS = {".": "dot", "@": "at", "/": "slash", ":": "colon", "-": "dash", "_": "underscore", "?": "question mark"}
ADDRESS_SIGNS |= {"=": "equals", "&": "and", "+": "plus", "#": "hash", "%": "percent", "~": "tilde"}
