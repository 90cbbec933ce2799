"""The commands, a module each: parse, call one library function, show what came of it."""
