package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is the unit of times in /proc: USER_HZ is 100 wherever Go runs.
const tick = time.Second / 100

// cpuTime is what a process and its children have used so far, in user mode
// and in the kernel. When one ends in between, what it has used moves to its
// parent, so everything is read once more.
func cpuTime(pid int) (used time.Duration, err error) {
	for range 10 {
		if used, err = cpuTimeOnce(pid); !isGone(err) {
			break
		}
	}
	return used, err
}

func cpuTimeOnce(pid int) (time.Duration, error) {
	var sum time.Duration
	for i, pid := range family(pid) {
		f, err := stat(pid)
		if err != nil {
			return 0, err
		}
		fields := f[13-2 : 15-2] // utime, stime
		if i == 0 {
			fields = f[13-2 : 17-2] // and cutime, cstime: children that have ended
		}
		for _, s := range fields {
			n, err := strconv.ParseInt(s, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum, nil
}

// isGone reports whether an error is that a process has ended.
func isGone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// stat is /proc/PID/stat from its third field on, which is the first after the
// program's name; see proc_pid_stat(5).
func stat(pid int) ([]string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	s := string(data)
	f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	if len(f) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat: only %d fields", pid, len(f))
	}
	return f, nil
}

// family is a process and those that it and its children have started, itself
// first.
func family(pid int) []int {
	children := make(map[string][]int)
	all, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range all {
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if f, err := stat(child); err == nil {
			children[f[1]] = append(children[f[1]], child)
		}
	}
	list := []int{pid}
	for i := 0; i < len(list); i++ {
		list = append(list, children[strconv.Itoa(list[i])]...)
	}
	return list
}

// memory is what a process and its children hold in memory, in bytes; a page
// that several of them share counts once.
func memory(pid int) (int, error) {
	sum := 0
	for i, pid := range family(pid) {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if i > 0 && isGone(err) {
			continue // it holds nothing any more
		}
		if err != nil {
			return 0, err
		}
		_, rest, _ := strings.Cut(string(data), "\nPss:")
		var kib int
		if _, err := fmt.Sscan(rest, &kib); err != nil {
			return 0, fmt.Errorf("/proc/%d/smaps_rollup: %w", pid, err)
		}
		sum += kib << 10
	}
	return sum, nil
}
