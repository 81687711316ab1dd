package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// write gives the table as Markdown.
func (t *table) write(w *strings.Builder) {
	fmt.Fprintf(w, "## %s\n\nLoad: %s.\n\n| |", t.row.title, t.row.load)
	for _, c := range t.row.columns {
		fmt.Fprintf(w, " %s |", c.name)
	}
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" ---: |", len(t.row.columns)))
	for p, name := range t.peers {
		fmt.Fprintf(w, "| %s |", name)
		for c, col := range t.row.columns {
			fmt.Fprintf(w, " "+col.format, t.median(p, c))
			if col.ratio && p > 0 {
				mid, low, high := t.ratio(p, c)
				fmt.Fprintf(w, " (**%.2f**, %.2f-%.2f)", mid, low, high)
			}
			w.WriteString(" |")
		}
		w.WriteString("\n")
	}
	w.WriteString("\n")
	for _, goal := range t.row.targets {
		p := slices.Index(t.peers, goal.peer)
		if p < 0 {
			continue
		}
		mid, _, _ := t.ratio(p, goal.column)
		verdict := "reached"
		if mid > goal.limit {
			verdict = "**missed**"
		}
		fmt.Fprintf(w, "- Target: %s at most %.4gx %s's: %s (%.2f).\n", t.row.columns[goal.column].name, goal.limit, goal.peer, verdict, mid)
	}
	w.WriteString("\n")
}

// median is of a peer's figures in one column.
func (t *table) median(peer, column int) float64 {
	var list []float64
	for _, figures := range t.samples[peer] {
		list = append(list, figures[column])
	}
	return median(list)
}

// ratio is our figure divided by the peer's: the median over the rounds, whose
// measurements met the same machine, and the extremes.
func (t *table) ratio(peer, column int) (mid, low, high float64) {
	var list []float64
	for round, figures := range t.samples[peer] {
		list = append(list, t.samples[0][round][column]/figures[column])
	}
	return median(list), slices.Min(list), slices.Max(list)
}

func median(list []float64) float64 {
	if len(list) == 0 {
		return math.NaN()
	}
	list = slices.Sorted(slices.Values(list))
	mid := len(list) / 2
	if len(list)%2 == 0 {
		return (list[mid-1] + list[mid]) / 2
	}
	return list[mid]
}
