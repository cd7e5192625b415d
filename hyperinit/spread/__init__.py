"""Work that is spread over processes and machines, by engines that others maintain."""
