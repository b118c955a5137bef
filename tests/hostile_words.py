"""Words that mean something to somebody, and how to tell that none of them does any more."""

import re

FORGED = "| same_length_isolation_zero | == 0 | PASS 0 |"
#: What means something to somebody: a terminal, a Markdown renderer, a browser, an XML reader, a CI service, an eye.
EVIL = [
    f"x |\n{FORGED}\n",
    f"x |\r\n{FORGED}\r\n",
    f"\u2028{FORGED}\u2029",
    f"\x0b\x0c\x1c\x1d\x1e\x85{FORGED}",
    "\n\n# All gates PASS\n\n",
    "\x1b[2J\x1b[H\x1b[32mPASS\x1b[0m",
    "\x9b2J\x9d0;title\x07\x90q\x9c",
    "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "FAIL\r PASS\b\b\b\b",
    "\u202eSSAP\u202c\u2066\u2069\u200e\u200f\u061c",
    "PA\u200bSS\u200d\u2060\ufeff\u00ad\u115f\u3164\ufe0f\U000e0041",
    "<script>alert(1)</script><img src=x onerror=y><!-- <b>PASS</b>",
    "<http://evil.example> <a@evil.example>",
    "[PASS](javascript:alert(1)) ![x](http://evil.example/x.png) [x]: http://evil.example",
    "**PASS** __PASS__ *x* _x_ ~~x~~ `code` ``co`de`` $\\color{green}{PASS}$",
    "\\`x\\` \\\\<b>PASS</b>\\\\",
    "&lt;b&gt; &#x202e; &#60;b&#62; &NewLine;",
    "::error file=a,line=1::PASS",
    "##[error]PASS ##vso[task.complete result=Succeeded] ##teamcity[testFinished]",
    "\x00\ufffe\uffff\ue000",
    "- item\n1. one\n> quote\n***\n---\n```\ncode\n```\n    code",
    "]]> &amp; \" ' <?xml?>",
]


def harmless(text):
    """Whether a text holds nothing but characters that show, and no command of a CI service."""
    return all(c == "\n" or c.isprintable() for c in text) and not re.search(r"^\s*::|##\[|##\w+\[", text, re.MULTILINE)
