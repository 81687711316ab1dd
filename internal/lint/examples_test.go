package lint

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// checkExamples wants for each folder of examples a test of what it tells its
// reader to type, and its line in README.md.
func checkExamples(folder string) (problems []string, err error) {
	readme, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		return nil, err
	}
	mains, err := filepath.Glob(filepath.Join(folder, "*", "main.go"))
	if err != nil {
		return nil, err
	}
	for _, main := range mains {
		name := filepath.Base(filepath.Dir(main))
		if tests, _ := filepath.Glob(filepath.Join(folder, name, "*_test.go")); len(tests) == 0 {
			problems = append(problems, fmt.Sprintf("examples/%s has no test", name))
		}
		if !strings.Contains(string(readme), fmt.Sprintf("| [%[1]s](%[1]s/main.go) | ", name)) {
			problems = append(problems, fmt.Sprintf("examples/%s is not in the table of examples/README.md", name))
		}
	}
	return problems, nil
}

func TestExamples(t *testing.T) {
	problems, err := checkExamples(filepath.Join(root(t), "examples"))
	if err != nil {
		t.Fatal(err)
	}
	report(t, problems)
}

func TestExamplesReportsViolations(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"README.md": "| [good](good/main.go) | x |\n", "good/main.go": "", "good/main_test.go": "", "bad/main.go": "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	problems, err := checkExamples(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(problems) != 2 {
		t.Errorf("got %q", problems)
	}
}
