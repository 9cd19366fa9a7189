"""Experts as other programs' files, and theirs as experts: nothing that training needs."""
