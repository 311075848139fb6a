"""Reads the JSON lines of a file once by another library, and prints the seconds."""
import sys
import time

library, path = sys.argv[1:]
if library == "polars":
    import polars

    start = time.perf_counter()
    rows = polars.read_ndjson(path).height
else:
    import duckdb

    database = duckdb.connect()
    database.execute("SET enable_progress_bar = false")
    start = time.perf_counter()
    database.execute(f"CREATE TABLE rows AS SELECT * FROM read_json('{path}', format='newline_delimited')")
    rows = database.execute("SELECT count(*) FROM rows").fetchall()[0][0]
print(rows, time.perf_counter() - start)
