"""All rows: what is typed, and the words of the line that answers."""

import data_mistakes
import model_mistakes
import other_mistakes
import training_mistakes
from mistakes import Mistake

TABLES = (data_mistakes, training_mistakes, model_mistakes, other_mistakes)
ROWS = [row if isinstance(row, Mistake) else Mistake(*row) for table in TABLES for row in table.TABLE]
