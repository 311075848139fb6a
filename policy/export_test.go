package policy

// AdamW is the optimizer's step, for tests from outside.
var AdamW = (*State).adamW
