package coordinator

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// What the autoscaling examples and the documentation ask for is what a coordinator tells.
func TestMetricsAreWhatIsDocumented(t *testing.T) {
	told := make(chan *prometheus.Desc, 100)
	(*queueMetrics)(nil).Describe(told)
	close(told)
	var all strings.Builder
	for d := range told {
		all.WriteString(d.String())
	}
	files, err := filepath.Glob("../deploy/kubernetes/autoscaling/*.yaml")
	if err != nil || len(files) < 2 {
		t.Fatal(files, err)
	}
	for _, file := range append(files, "../docs/farm.md") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		names := regexp.MustCompile(`\bbakefarm_[a-z_]+\b`).FindAllString(string(text), -1)
		if len(names) == 0 {
			t.Errorf("%s names no metric", file)
		}
		for _, name := range names {
			if !strings.Contains(all.String(), `fqName: "`+name+`"`) {
				t.Errorf("%s asks for %s, which nobody tells", file, name)
			}
		}
	}
}
