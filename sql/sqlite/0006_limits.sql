-- One process at a time calls with this store, so a limit is all its own and nothing is shared.
SELECT 1;
