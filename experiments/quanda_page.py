def write(*a):
  return 'none'
