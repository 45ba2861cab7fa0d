"""What a run leaves and what people read of it: tables, regions, FITS images, the report. Needs no CASA."""
