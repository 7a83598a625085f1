"""A headless browser over the DevTools protocol, by pipes: no package needed."""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from typing import NamedTuple

import pytest

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
# The browser reads from file 3 and writes to file 4.
START = (
  'import os, sys; r, w = (os.dup2(int(f), n) for f, n in'
  ' zip(sys.argv[1:3], (100, 101))); os.dup2(r, 3); os.dup2(w, 4);'
  ' os.execvp(sys.argv[3], sys.argv[3:])'
)


class Tab(NamedTuple):
  """An open page.

  Attributes:
    call: (method, **parameters) -> result, of the DevTools protocol.
    evaluate: JavaScript expression -> its value.
    events: what the page has sent so far: dicts of `method` and `params`.
  """

  call: callable
  evaluate: callable
  events: list[dict]


@contextlib.contextmanager
def tab(profile):
  """A tab whose requests, errors and log are recorded; skips without browser."""
  found = next(filter(None, map(shutil.which, NAMES)), None)
  if found is None:
    pytest.skip(f'no browser is on PATH: install one of {", ".join(NAMES)}')
  ours, theirs = os.pipe(), os.pipe()  # to the browser, from the browser
  process = subprocess.Popen(
    [
      *(sys.executable, '-c', START, str(ours[0]), str(theirs[1]), found),
      *('--headless=new', '--no-sandbox', '--remote-debugging-pipe'),
      *('--disable-gpu', '--disable-dev-shm-usage', '--no-first-run'),
      *('--hide-scrollbars', f'--user-data-dir={profile}', 'about:blank'),
    ],
    pass_fds=(ours[0], theirs[1]),
    stderr=subprocess.DEVNULL,
  )
  os.close(ours[0])
  os.close(theirs[1])
  try:
    with open(ours[1], 'wb', 0) as out, open(theirs[0], 'rb') as into:
      yield _attached(out, into)
      out.write(b'{"id": 0, "method": "Browser.close"}\0')
  finally:
    try:
      process.wait(20)
    except subprocess.TimeoutExpired:
      process.kill()
      process.wait()


def visit(tab: Tab, path) -> None:
  """Opens a file and waits until it and its scripts are done."""
  tab.call('Page.navigate', url=path.resolve().as_uri())
  tab.evaluate(
    'new Promise(done => document.readyState === "complete" ? done()'
    ' : addEventListener("load", done))'
  )


def shape(tab: Tab, width: int, dark: bool) -> None:
  """The window's width, and which colours its user prefers."""
  tab.call(
    'Emulation.setDeviceMetricsOverride',
    **{'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False},
  )
  scheme = 'dark' if dark else 'light'
  feature = {'name': 'prefers-color-scheme', 'value': scheme}
  tab.call('Emulation.setEmulatedMedia', features=[feature])


def photograph(tab: Tab, path) -> None:
  """The whole page as a PNG file."""
  found = tab.call('Page.captureScreenshot', captureBeyondViewport=True)
  path.write_bytes(base64.b64decode(found['data']))


def _attached(out, into) -> Tab:
  events, session = [], {}

  def call(method, **parameters):
    call.count += 1
    message = {'id': call.count, 'method': method, 'params': parameters}
    out.write(json.dumps({**message, **session}).encode() + b'\0')
    while True:
      answer = _message(into)
      if answer.get('id') == call.count:
        assert 'error' not in answer, answer
        return answer['result']
      events.append(answer)

  call.count = 0

  def evaluate(expression):
    found = call(
      'Runtime.evaluate',
      **{'expression': expression, 'awaitPromise': True, 'returnByValue': True},
    )
    assert 'exceptionDetails' not in found, found
    return found['result'].get('value')

  target = call('Target.createTarget', url='about:blank')['targetId']
  at = call('Target.attachToTarget', targetId=target, flatten=True)
  session['sessionId'] = at['sessionId']
  for domain in ('Page', 'Runtime', 'Log', 'Network'):
    call(f'{domain}.enable')
  return Tab(call, evaluate, events)


def _message(into):
  text = bytearray()
  while (byte := into.read(1)) != b'\0':
    assert byte, 'the browser has ended'
    text += byte
  return json.loads(text)
