package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// measurement is one question with what each contender took. The first contender is what the others are compared with.
type measurement struct {
	what string
	by   []*contender
}

// contender is one way to do the job of a measurement.
type contender struct {
	name  string
	run   func() (time.Duration, error) // does the job once and says how long it took
	bytes int64                         // that a run moves, when the question is how fast it moves them; else 0
	took  []time.Duration
	err   error // why it was left out, once it was
}

// rounds lets every contender run n times, in turn. One that fails is left out from then on.
func (m *measurement) rounds(n int) {
	for range n {
		for _, c := range m.by {
			if c.err != nil {
				continue
			}
			took, err := c.run()
			if err != nil {
				c.err = err
				continue
			}
			c.took = append(c.took, took)
		}
	}
}

// median is the middle one of some lengths of time, the mean of the two middle ones when they are even in number.
func median(of []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	n := len(sorted)
	if n == 0 {
		return 0
	}
	return (sorted[(n-1)/2] + sorted[n/2]) / 2
}

// render writes the table: the machine first, then every measurement, then notes. The ratio is how many times as long a
// contender took as the first one of its measurement, so that more is better for bakefarm.
func render(w io.Writer, machine string, measured []*measurement, notes []string) error {
	var out strings.Builder
	fmt.Fprintln(&out, machine)
	fmt.Fprintln(&out)
	table := tabwriter.NewWriter(&out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "MEASURED\tBY\tRUNS\tMEDIAN\tFASTEST\tSLOWEST\tRATIO")
	var left []string
	for _, m := range measured {
		what := m.what
		for i, c := range m.by {
			if c.err != nil {
				left = append(left, fmt.Sprintf("left out: %s (%s): %s", c.name, m.what, firstLine(c.err)))
				continue
			}
			if len(c.took) == 0 {
				continue
			}
			middle, ratio := median(c.took), "1"
			if i > 0 && len(m.by[0].took) > 0 {
				ratio = fmt.Sprintf("%.1f", float64(middle)/float64(median(m.by[0].took)))
			}
			name := c.name
			if c.bytes > 0 {
				name += fmt.Sprintf(": %.0f MB/s", float64(c.bytes)/1e6/middle.Seconds())
			}
			fmt.Fprintf(table, "%s\t%s\t%d\t%s\t%s\t%s\t%s\n", what, name, len(c.took), seconds(middle),
				seconds(slices.Min(c.took)), seconds(slices.Max(c.took)), ratio)
			what = ""
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintln(&out)
	for _, note := range append(notes, left...) {
		fmt.Fprintln(&out, note)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f s", d.Seconds()) }

// firstLine is an error's first line, as long as a table bears.
func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line[:min(len(line), 300)]
}

func TestTable(t *testing.T) {
	ms := func(n ...int) (d []time.Duration) {
		for _, n := range n {
			d = append(d, time.Duration(n)*time.Millisecond)
		}
		return d
	}
	var got strings.Builder
	err := render(&got, "2 cores", []*measurement{
		{"re-bake", []*contender{
			{name: "bakefarm", took: ms(300, 100, 200)}, {name: "slow", took: ms(900, 1000, 1100)}, {name: "even", took: ms(300, 500)},
		}},
		{"pull", []*contender{{name: "farm", took: ms(50), bytes: 10e6}, {name: "absent", err: fmt.Errorf("not on PATH\nat all")}}},
	}, []string{"peak memory: 1 MB"})
	if err != nil {
		t.Fatal(err)
	}
	want := `2 cores

MEASURED  BY              RUNS  MEDIAN   FASTEST  SLOWEST  RATIO
re-bake   bakefarm        3     0.200 s  0.100 s  0.300 s  1
          slow            3     1.000 s  0.900 s  1.100 s  5.0
          even            2     0.400 s  0.300 s  0.500 s  2.0
pull      farm: 200 MB/s  1     0.050 s  0.050 s  0.050 s  1

peak memory: 1 MB
left out: absent (pull): not on PATH
`
	if got.String() != want {
		t.Errorf("the table is\n%s\nwant\n%s", got.String(), want)
	}
}

func TestRoundsLeaveOutWhatFails(t *testing.T) {
	runs := 0
	steady := &contender{name: "steady", run: func() (time.Duration, error) { return time.Second, nil }}
	broken := &contender{name: "broken", run: func() (time.Duration, error) { runs++; return 0, io.ErrUnexpectedEOF }}
	(&measurement{"question", []*contender{broken, steady}}).rounds(3)
	if runs != 1 || broken.err == nil || len(steady.took) != 3 {
		t.Errorf("broken ran %d times (%v), steady %d times; want 1 and 3", runs, broken.err, len(steady.took))
	}
}
