-- One process at a time calls with this store, so its breakers are all its own and nothing is shared.
SELECT 1;
