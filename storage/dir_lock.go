package storage

import "fmt"

// inUseBy is the error for a folder that is locked; pid may be unknown.
func inUseBy(pid string) error {
	if pid == "" {
		return fmt.Errorf("the folder is locked: %w", ErrInUse)
	}
	return fmt.Errorf("the folder is locked by process %s: %w", pid, ErrInUse)
}
