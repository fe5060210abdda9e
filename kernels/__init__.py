"""Operations that have a form of their own for each kind of device: attention."""
