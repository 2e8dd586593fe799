"""
The colours of pictures, which mean the same in all of them: what counts is blue, what does not is grey.

They are those of Okabe and Ito, which people with any colour vision can tell apart.
"""

BLUE = "#0072b2"
GREY = "#b3b3b3"
ORANGE = "#e69f00"
VERMILION = "#d55e00"
