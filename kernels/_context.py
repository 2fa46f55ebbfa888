"""What a kernel may ask of the worker that runs it: one block of CONTEXT int64 cells a worker."""

BATCH = 0  # rows of this step's batch
START = 1  # place of the batch's first row in the order of the epoch
UPDATE = 2  # number of this update, from 1
LOSS = 3  # float64: loss of this step
GRADIENT = 4  # address that stands for element 0 of the parameters' gradient, set by whoever calls an optimizer
ZEROS = 5  # address of PANEL zeros, then PANEL ones
SCRATCH = 6  # address of the worker's own memory
WORKER = 7  # number of the worker
WEIGHT = 8  # float64: what the rows of this batch count for in a mean, together
REST = 9  # rows of the epoch from START on
CONTEXT = 16  # cells of a block: two cache lines
