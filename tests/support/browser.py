"""A page in Debian's Chromium, headless: what its scripts do is asked for by a script at its end."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-dev-shm-usage",
    "--window-size=420,2000",
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: apt-get install chromium")

BEFORE = """<script>
const wrong = [];
addEventListener("error", event => wrong.push(String(event.message)));
addEventListener("securitypolicyviolation", event => wrong.push("refused: " + event.blockedURI));
</script>"""
AFTER = """<script>
{
  const found = {};
  try { (() => { ASKED })(); } catch (error) { wrong.push(String(error)); }
  const out = document.createElement("pre");
  out.id = "found";
  const requests = performance.getEntriesByType("resource").map(entry => entry.name);
  out.textContent = JSON.stringify({wrong, requests, ...found});
  document.body.replaceChildren(out);
}
</script>"""
"""At once, not in the background: what comes later may be too late for --dump-dom."""


def asked(page: str, script: str, folder: Path) -> dict[str, Any]:
    """What `script` put into `found`, with `wrong`, all errors, and `requests`, all that was loaded or tried to be."""
    assert CHROMIUM is not None
    head, body = page.split("<head>", 1)
    file = folder / "asked.html"
    file.write_text(head + "<head>" + BEFORE + body.replace("</body>", AFTER.replace("ASKED", script) + "</body>"))
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", file.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    answer = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert answer, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(html.unescape(answer[1]))
    return found
