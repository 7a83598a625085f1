"""The list of mutations follows the code."""

from scripts import mutants


def test_every_mutation_can_be_made():
  every = mutants.every()
  assert len(every) > 200
  assert not [m for m in every if mutants.stale(m)]
