// Package folderlock keeps a folder to one process, by a file in it.
package folderlock

import "fmt"

// Held is the error for a lock that somebody has.
type Held struct {
	// PID is the process, a number, "" if it is not known.
	PID string
	// File is what to remove if no process is running, on systems where one that
	// is killed leaves it behind; "" elsewhere.
	File string
}

func (h *Held) Error() string {
	switch {
	case h.PID != "":
		return fmt.Sprintf("the folder is locked by process %s", h.PID)
	case h.File != "":
		return fmt.Sprintf("the folder is locked; if no process runs on it, remove the file %s", h.File)
	}
	return "the folder is locked"
}
