"""Type a claim, see its evidence: a page on this machine only.

  python -m experiments.fasttrack.serve --config=configs/fasttrack/facts.py \\
    --workdir=DIR

DIR is that of a finished run of the same config. The page is at
http://127.0.0.1:8765 and no other machine can reach it.
"""

import pathlib
import urllib.parse
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from experiments.fasttrack import judges as judges_lib
from experiments.fasttrack import page
from experiments.shared import launch, results, tasks
from experiments.shared import settings as settings_lib
from tda_jax.report import evidence as evidence_lib
from tda_jax.tracing import trace

HOST, PORT = '127.0.0.1', 8765
LONGEST = 1000  # letters of a claim


def main(config, workdir: pathlib.Path) -> None:
  """Serves until it is interrupted."""
  settings_lib.check(config, 'fasttrack')
  made = server(answers(config, workdir), PORT)
  print(f'type claims at http://{HOST}:{made.server_port}/')
  made.serve_forever()


def answers(config, workdir: pathlib.Path) -> Callable[[str], str]:
  """(what was typed) -> the page that answers it."""
  task = tasks.load(config)
  made = judges_lib.encoder_of(config, task.known['sentences'], workdir)
  search = judges_lib.searched(
    config, task.known['sentences'], made, workdir / 'index'
  )
  judged = next(iter(judges_lib.judges_of(config, made, workdir).values()))
  title = f'Evidence: {results.name_of(config)}'

  def answer(typed: str) -> str:
    claims = []
    if typed.strip():
      (one,) = trace.trace(
        search,
        [typed.strip()[:LONGEST]],
        judged.judge,
        way=config.tracing.way,
        budget=config.tracing.budget,
        fuzz=config.tracing.fuzz,
        threshold=judged.threshold,
      )
      claims = [page.claim_of(search, one, config.report.evidence)]
    return evidence_lib.served(title, page.ABOUT, claims, typed[:LONGEST])

  return answer


def server(answer: Callable[[str], str], port: int) -> ThreadingHTTPServer:
  """A server of one page on this machine; an error is one sentence on it."""

  class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_) -> None:
      pass

    def do_GET(self) -> None:
      parts = urllib.parse.urlsplit(self.path)
      host = (self.headers.get('host') or '').rpartition(':')[0]
      # A page elsewhere must not read this one under another name.
      if parts.path != '/' or host not in (HOST, 'localhost'):
        self.send_error(404)
        return
      typed = urllib.parse.parse_qs(parts.query).get('claim', [''])[0]
      try:
        status, text = 200, answer(typed)
      except ValueError as error:
        status = 400
        text = evidence_lib.served(
          'Not traced', f'{error}', [], typed[:LONGEST]
        )
      data = text.encode()
      self.send_response(status)
      self.send_header('content-type', 'text/html; charset=utf-8')
      self.send_header('content-length', str(len(data)))
      self.end_headers()
      self.wfile.write(data)

  return ThreadingHTTPServer((HOST, port), Handler)


if __name__ == '__main__':
  launch.launch(main)
