"""A client of OpenAI-compatible endpoints: one POST, with patience and a budget.

The key stands in no record, error, `repr` or file: it is in a closure, and where a
server writes it back it is taken out, if it has 8 letters or more.
"""

import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from tda_jax.tracing.judges.judge import Usage

AGAIN = (408, 409, 429)  # and all of 500 and above: worth another try
LONGEST = 120.0  # seconds that a server may make us wait
HIDDEN = '[key]'
# Letters of a key that is looked for in answers: 'k' is in many words.
SHORTEST = 8


class Client(NamedTuple):
  """A server that answers.

  Attributes:
    post: (path, body) -> its answer, an object.
    base_url: of the server.
    usage: () -> calls and tokens so far.
    at_once: the most calls in flight.
  """

  post: Callable[[str, dict], dict]
  base_url: str
  usage: Callable[[], Usage]
  at_once: int


class Refused(ValueError):
  """The server did not answer, or refused; one sentence says why."""


class BudgetEnded(ValueError):
  """The budget of calls or tokens is spent; what was answered is kept."""


def client(
  base_url: str | None = None,
  key: str | None = None,
  *,
  timeout: float = 60.0,
  tries: int = 5,
  at_once: int = 4,
  calls: int | None = None,
  tokens: int | None = None,
  wait: Callable[[float], Any] = time.sleep,
) -> Client:
  """A client of `base_url`, as 'http://localhost:8000/v1'.

  A call is repeated, at most `tries` times in all, where the server says 408, 409,
  429 or 5xx, cannot be reached or is too slow: after the seconds of its retry-after,
  else after 1, 2, 4, … seconds.

  Args:
    base_url: None: that of the environment's OPENAI_BASE_URL.
    key: None: that of OPENAI_API_KEY; none is sent where neither is given.
    timeout: seconds without a word from the server.
    tries: of one call.
    at_once: the most calls in flight.
    calls, tokens: budgets, of this client; None: without end. Each try is a call.
      Tokens are those that the server counts (`usage`), so that calls in flight
      may pass the budget.
    wait: how to wait, for tests.

  Raises:
    ValueError: no URL, or one that is none, has a password or a query; budgets or
      tries below 1; a timeout that is not above 0; a key of more than one line.
  """
  base_url = _checked_url(base_url or os.environ.get('OPENAI_BASE_URL', ''))
  key = os.environ.get('OPENAI_API_KEY', '') if key is None else key
  if key and not (key.isascii() and key.isprintable()):
    raise ValueError(
      'the key has letters that a header cannot have: give it without line breaks'
    )
  for name, value in (('tries', tries), ('at_once', at_once)):
    if value < 1:
      raise ValueError(f'{name}={value}: give at least 1')
  budget = _budget(calls, tokens)
  if not timeout > 0:
    raise ValueError(f'timeout={timeout}: give seconds above 0')
  secret = key if len(key) >= SHORTEST else ''
  hide = lambda text: text.replace(secret, HIDDEN) if secret else text

  def post(path: str, body: dict) -> dict:
    headers = {'content-type': 'application/json'}
    if key:
      headers['authorization'] = f'Bearer {key}'
    data = json.dumps(body).encode()
    request = urllib.request.Request(f'{base_url}{path}', data, headers)
    for left in reversed(range(tries)):
      budget.take()
      answer, problem, pause = _once(request, timeout)
      if answer is not None:
        budget.count(answer)
        return {name: _in_texts(hide, value) for name, value in answer.items()}
      if pause is None or not left:
        raise Refused(_sentence(base_url, hide(problem), pause, tries))
      wait(pause if pause >= 0 else min(2.0 ** (tries - 1 - left), LONGEST))
    raise AssertionError('a try returns or raises')

  return Client(post, base_url, budget.usage, at_once)


class _Budget(NamedTuple):
  """Counts of one client, of all its threads."""

  take: Callable[[], None]  # one more call, if there is one left
  count: Callable[[dict], None]  # the tokens of an answer
  usage: Callable[[], Usage]


def _budget(calls, tokens) -> _Budget:
  for name, value in (('calls', calls), ('tokens', tokens)):
    if value is not None and value < 1:
      raise ValueError(f'{name}={value}: give a budget of at least 1')
  lock, used = threading.Lock(), {'calls': 0, 'tokens': 0}

  def take():
    with lock:
      for name, most in (('calls', calls), ('tokens', tokens)):
        if most is not None and used[name] >= most:
          raise BudgetEnded(
            f'the budget of {most} {name} is spent ({used["calls"]} calls,'
            f' {used["tokens"]} tokens): what was answered is kept, and the same'
            f' command with more {name} goes on from there'
          )
      used['calls'] += 1

  def count(answer):
    with lock:
      used['tokens'] += _tokens(answer.get('usage'))

  def usage():
    with lock:
      return Usage(used['calls'], used['tokens'])

  return _Budget(take, count, usage)


def _tokens(usage) -> int:
  """The tokens that a server says it used; 0 of what is no count of tokens."""
  if not isinstance(usage, dict):
    return 0
  of = {name: value for name, value in usage.items() if type(value) is int}
  parts = of.get('prompt_tokens', 0) + of.get('completion_tokens', 0)
  return max(of.get('total_tokens', parts), 0)


def _in_texts(change, answer):
  """The answer with all its texts changed; names of fields stay."""
  if isinstance(answer, dict):
    return {name: _in_texts(change, value) for name, value in answer.items()}
  if isinstance(answer, list):
    return [_in_texts(change, value) for value in answer]
  return change(answer) if isinstance(answer, str) else answer


class _Stay(urllib.request.HTTPRedirectHandler):
  """Follows no redirection, with which the key would go to another server."""

  def redirect_request(self, *_: Any) -> None:
    return None


_OPENER = urllib.request.build_opener(_Stay)


def _once(request, timeout):
  """(answer, None, None), or (None, what went wrong, seconds to wait).

  Seconds are −1 where the server does not say, and None where another try is of no
  use.
  """
  try:
    with _OPENER.open(request, timeout=timeout) as response:
      answer = json.loads(response.read())
  except urllib.error.HTTPError as error:
    with error:
      words = error.read(500).decode(errors='replace')
    problem = f'it says {error.code} {error.reason} ({" ".join(words.split())})'
    useful = error.code in AGAIN or error.code >= 500
    return None, problem, _pause(error.headers) if useful else None
  except TimeoutError:
    return None, f'it said nothing for {timeout:g} seconds', -1
  except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
    reason = getattr(error, 'reason', None) or error
    return None, f'it cannot be reached ({reason or type(error).__name__})', -1
  except (ValueError, RecursionError):
    return None, 'its answer is no JSON', -1
  if not isinstance(answer, dict):
    return None, 'its answer is no JSON object', -1
  if error := answer.get('error'):  # some say so with status 200
    said = error.get('message') if isinstance(error, dict) else error
    return None, f'it says {" ".join(str(said).split())[:500]}', -1
  return answer, None, None


def _pause(headers) -> float:
  """The seconds of retry-after, a number or a date; −1 without."""
  given = headers.get('retry-after')
  if given is None:
    return -1
  try:
    seconds = float(given)
  except ValueError:
    try:
      seconds = parsedate_to_datetime(given).timestamp() - time.time()
    except (TypeError, ValueError):
      return -1
  return min(max(seconds, 0.0), LONGEST)


def _sentence(base_url, problem, pause, tries):
  if pause is None:
    return (
      f'the endpoint {base_url} refuses: {problem}; see that its URL, model and key'
      ' are right'
    )
  return (
    f'the endpoint {base_url} does not answer after {tries} tries: {problem}; what'
    ' was answered is kept, so run the same command again when it does'
  )


def _checked_url(url: str) -> str:
  if not url:
    raise ValueError(
      'there is no endpoint: give base_url, or set OPENAI_BASE_URL, as'
      ' http://localhost:8000/v1'
    )
  try:
    parts = urllib.parse.urlsplit(url)
    named = parts.scheme in ('http', 'https') and parts.hostname
    named = named and ' ' not in url and parts.port != 0  # a bad port raises
    secret = parts.username or parts.password or parts.query or parts.fragment
  except ValueError:
    named, secret = False, False
  if secret:
    raise ValueError(
      'the URL of the endpoint has a user, a password or a query, which records'
      ' would hold: give the plain URL, and the key as OPENAI_API_KEY'
    )
  if not named:
    raise ValueError(
      f'base_url={url!r} is no address of an endpoint: give one as'
      ' http://localhost:8000/v1'
    )
  return url.rstrip('/')
