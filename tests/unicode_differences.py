"""Characters that other tokenizers, or TensorFlow and Python, treat each in their own way."""


def characters_in(ranges):
    """ "41-43 5A" -> {"A", "B", "C", "Z"}."""
    ends = [part.split("-") for part in ranges.split()]
    return {chr(code) for end in ends for code in range(int(end[0], 16), int(end[-1], 16) + 1)}


# Where TensorFlow differs from Python. tf.strings.lower has the tables of Unicode 13, so it leaves
# the capitals that came with Unicode 14 as they are: five letters, and the Vithkuqi script.
CAPITALS_OF_UNICODE_14 = characters_in(
    "2C2F A7C0 A7D0 A7D6 A7D8 10570-1057A 1057C-1058A 1058C-10592 10594-10595"
)

# Where the `tokenizers` library (0.23) differs from google-research/bert, whose rules the plain
# tokenizer follows. It drops the private use areas (all of category C).
PRIVATE_USE = characters_in("E000-F8FF")
# It begins the ideographs of extension E at 2B920 for 2B820.
IDEOGRAPHS_FORGOTTEN = characters_in("2B820-2B91F")
# It has tables of Unicode 8. Punctuation, once that came later and once two characters that changed
# their category since:
LATER_PUNCTUATION = characters_in("""
    061D 09FD 0A76 0C77 0C84 1B7D-1B7E 2E43-2E4F 2E52-2E5D 10EAD 10F55-10F59 10F86-10F89
    1144B-1144F 1145A-1145B 1145D 11660-1166C 116B9 1183B 11944-11946 119E2 11A3F-11A46
    11A9A-11A9C 11A9E-11AA2 11B00-11B09 11C41-11C45 11C70-11C71 11EF7-11EF8 11F43-11F4F 11FFF
    12FF1-12FF2 16E97-16E9A 16FE2 1E95E-1E95F
    166D 111C9
""")
# Format characters that came later.
LATER_FORMATS = characters_in("0890-0891 08E2 110CD 13430-1343F")
# Marks that came later or, like 1734, changed between Mn and Mc since; only the uncased tokenizer
# drops marks.
LATER_MARKS = characters_in("""
    07FD 0898-089F 08CA-08E1 09FE 0AFA-0AFF 0B55 0C04 0C3C 0D00 0D3B-0D3C 0D81 0EBA 0ECE 1734
    180F 1885-1886 1ABF-1ACE 1DF6-1DFB A82C A8C5 A8FF A9BD 10D24-10D27 10EAB-10EAC 10EFD-10EFF
    10F46-10F50 10F82-10F85 11070 11073-11074 110C2 111C9 111CF 1123E 11241 1133B 11438-1143F
    11442-11444 11446 1145E 1182F-11837 11839-1183A 11938 1193B-1193C 1193E 11943 119D4-119D7
    119DA-119DB 119E0 11A01-11A0A 11A33-11A38 11A3B-11A3E 11A47 11A51-11A56 11A59-11A5B
    11A8A-11A96 11A98-11A99 11C30-11C36 11C38-11C3D 11C3F 11C92-11CA7 11CAA-11CB0 11CB2-11CB3
    11CB5-11CB6 11D31-11D36 11D3A 11D3C-11D3D 11D3F-11D45 11D47 11D90-11D91 11D95 11D97
    11EF3-11EF4 11F00-11F01 11F36-11F3A 11F40 11F42 13440 13447-13455 16F4F 16FE4 1CF00-1CF2D
    1CF30-1CF46 1E000-1E006 1E008-1E018 1E01B-1E021 1E023-1E024 1E026-1E02A 1E08F 1E130-1E136
    1E2AE 1E2EC-1E2EF 1E4EC-1E4EF 1E944-1E94A
""")
UNLIKE_THE_LIBRARY = PRIVATE_USE | IDEOGRAPHS_FORGOTTEN | LATER_PUNCTUATION | LATER_FORMATS
