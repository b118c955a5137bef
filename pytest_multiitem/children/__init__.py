"""Child processes that do one job with code which may crash or hang: the parent's side, the child's side, and the
function of a user's module that a job names. No compiler and no array library is imported here."""
