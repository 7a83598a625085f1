"""A deterministic server on a free loopback port that speaks OpenAI's protocol."""

import contextlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Stub(NamedTuple):
  """A running server: its URL, and every request as (headers, body)."""

  url: str
  seen: list


def believes(claim, sentence):
  """The stub's judgement: the claim's last word is in the sentence."""
  return claim.rstrip('.').split()[-1] in sentence


def answer(body, served=None):
  """What an honest server says to a question of ours."""
  text = body['messages'][-1]['content']
  numbered = re.findall(r'^(\d+)\. (.*)$', text, re.M)
  claim = re.match(r'Claim: (.*)', text)
  if claim:
    said = {n: believes(claim[1], sentence) for n, sentence in numbered}
  else:
    words = [w for _, s in numbered for w in s.split() if w[0].isupper()]
    said = {'keywords': words}
  usage = {'prompt_tokens': len(text.split()), 'completion_tokens': len(said)}
  message = {'role': 'assistant', 'content': json.dumps(said)}
  choices = [{'index': 0, 'message': message, 'finish_reason': 'stop'}]
  named = served or body['model']
  return {'model': named, 'choices': choices, 'usage': usage}


@contextlib.contextmanager
def served(reply):
  """A server whose answer to request n is reply(n, body).

  That is an object; or (status, headers, text); or a number of seconds to say
  nothing for, before the line is cut.
  """
  seen, lock = [], threading.Lock()

  class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *_):
      pass

    def do_POST(self):
      body = json.loads(self.rfile.read(int(self.headers['content-length'])))
      with lock:
        number = len(seen)
        seen.append((dict(self.headers), body))
      said = reply(number, {**body, 'path': self.path})
      if isinstance(said, float):
        time.sleep(said)
        self.close_connection = True
        return
      status, headers, text = (
        said if isinstance(said, tuple) else (200, {}, json.dumps(said))
      )
      self.send_response(status)
      for name, value in {**headers, 'content-length': len(text)}.items():
        self.send_header(name, str(value))
      self.end_headers()
      self.wfile.write(text.encode())

  server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
  thread = threading.Thread(
    target=server.serve_forever, args=(0.01,), daemon=True
  )
  thread.start()
  try:
    yield Stub(f'http://127.0.0.1:{server.server_port}/v1', seen)
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
