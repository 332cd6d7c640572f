-- Nothing: one process writes to a file, and nobody waits for its lock while the disk writes.
SELECT 1;
