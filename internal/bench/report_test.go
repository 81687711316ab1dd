package main

import (
	"strings"
	"testing"
)

func TestReport(t *testing.T) {
	tab := &table{
		row: &row{
			title: "Walking", load: "a mile",
			columns: []column{{name: "shoes", format: "%.1f", ratio: true}, {name: "miles/h", format: "%.0f", ratio: true, more: true}},
			targets: []target{{0, "them", 1}, {0, "them", 2}, {1, "them", 0.5}, {1, "them", 0.7}, {0, "", 4}, {0, "absent", 1}},
		},
		peers:   []peer{{name: "ours"}, {name: "them"}},
		profile: "feet\n",
		samples: [][][]float64{{{3, 5}, {2, 6}, {9, 7}}, {{2, 10}, {2, 10}, {3, 10}}},
	}
	var got strings.Builder
	tab.write(&got)
	const want = `## Walking

Load: a mile.

| | shoes | miles/h |
| --- | ---: | ---: |
| ours | 3.0 | 6 |
| them | 2.0 (**1.50**, 1.00-3.00) | 10 (**0.60**, 0.50-0.70) |

- Target: shoes at most 1x them: 1.50x, **missed**.
- Target: shoes at most 2x them: 1.50x, reached.
- Target: miles/h at least 0.5x them: 0.60x, reached.
- Target: miles/h at least 0.7x them: 0.60x, **missed**.
- Target: shoes at most 4: 3.0, reached.

Where the CPU time of ours goes:

` + "```\nfeet\n```\n\n"
	if got.String() != want {
		t.Errorf("got:\n%s", got.String())
	}
}

func TestMedian(t *testing.T) {
	for want, list := range map[float64][]float64{2: {3, 1, 2}, 2.5: {4, 1, 2, 3}, 7: {7}} {
		if got := median(list); got != want {
			t.Errorf("median of %v is %v", list, got)
		}
	}
}
