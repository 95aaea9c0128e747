package recipe

import "bakefarm/recipe/strict"

// MaxErrors is how many errors one Errors reports.
const MaxErrors = strict.MaxErrors

// Error is one thing that is wrong in a recipe, a --set flag or an ignore file.
type Error = strict.Error

// Errors is everything that is wrong in a text, in the order of the text; those of flags come last.
type Errors = strict.Errors

// clip shortens foreign text for a message.
func clip(s string) string { return strict.Clip(s) }
