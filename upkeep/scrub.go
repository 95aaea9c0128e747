package upkeep

import (
	"context"
	"errors"
)

func (u *Upkeep) scrub(ctx context.Context, s *sweeping) error { return errors.New("not yet") }
