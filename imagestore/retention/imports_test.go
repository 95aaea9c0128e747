package retention

import (
	"strings"
	"testing"
)

func TestImportECR(t *testing.T) {
	got, err := ImportECR("shop/**", []byte(`{"rules": [
		{"rulePriority": 2, "description": "the last 30", "selection": {"tagStatus": "any", "countType": "imageCountMoreThan", "countNumber": 30}, "action": {"type": "expire"}},
		{"rulePriority": 1, "selection": {"tagStatus": "untagged", "countType": "sinceImagePushed", "countUnit": "days", "countNumber": 14}, "action": {"type": "expire"}},
		{"rulePriority": 3, "selection": {"tagStatus": "tagged", "tagPrefixList": ["prod"], "tagPatternList": ["rel*se"], "countType": "imageCountMoreThan", "countNumber": 1}, "action": {"type": "expire"}},
		{"rulePriority": 4, "selection": {"tagStatus": "any", "countType": "sinceImageMoved", "countNumber": 1}, "action": {"type": "expire"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	const want = "rules:\n- match: \"shop/**\"\n  keepLast: 30\n  keepTags: [\"rel*se\", \"prod*\"]\n"
	if got.Text != want {
		t.Errorf("got\n%swant\n%s", got.Text, want)
	}
	for i, begins := range []string{"ECR rule 1: untagged", "ECR rule 3: only images tagged rel*se, prod* expire", `ECR rule 4: countType "sinceImageMoved"`} {
		if i >= len(got.Untranslated) || !strings.HasPrefix(got.Untranslated[i], begins) {
			t.Errorf("note %d of %q does not begin with %q", i, got.Untranslated, begins)
		}
	}
	again, err := ParsePolicy("p", []byte(got.Text))
	if err != nil || again.Encode() != got.Text {
		t.Errorf("it does not read back: %v", err)
	}
	for _, bad := range []string{"", "[]", `{"rules": []}`, `{"rules": {}}`, `{"rules": [{}]} {}`} {
		if _, err := ImportECR("**", []byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if none, err := ImportECR("**", []byte(`{"rules": [{"rulePriority": 1}]}`)); err != nil || len(none.Policy.Rules) != 0 || len(none.Untranslated) != 2 {
		t.Errorf("%+v, %v", none, err)
	}
	// What "aws ecr get-lifecycle-policy" prints, with what ECR has besides expiring.
	archive, err := ImportECR("**", []byte(strings.ReplaceAll(`{"registryId": "1", "repositoryName": "a", "lifecyclePolicyText": "{\"rules\": [
		{\"rulePriority\": 1, \"selection\": {\"tagStatus\": \"any\", \"countType\": \"sinceImagePulled\", \"countUnit\": \"days\", \"countNumber\": 60, \"when\": 1}, \"action\": {\"type\": \"expire\"}},
		{\"rulePriority\": 2, \"selection\": {\"tagStatus\": \"any\", \"storageClass\": \"archive\", \"countType\": \"sinceImageTransitioned\", \"countUnit\": \"days\", \"countNumber\": 365}, \"action\": {\"type\": \"expire\"}},
		{\"rulePriority\": 3, \"selection\": {\"tagStatus\": \"any\", \"countType\": \"sinceImagePulled\", \"countUnit\": \"days\", \"countNumber\": 30}, \"action\": {\"type\": \"transition\", \"targetStorageClass\": \"archive\"}},
		{\"rulePriority\": 4, \"selection\": {\"tagStatus\": \"all\", \"countType\": \"imageCountMoreThan\", \"countNumber\": 1}, \"action\": {\"type\": \"expire\"}}]}"}`, "\n\t\t", "")))
	if want := "rules:\n- match: \"**\"\n  keepFor: 60d\n  keepPulledFor: 60d\n"; err != nil || archive.Text != want {
		t.Errorf("got\n%s, %v, want\n%s", archive.Text, err, want)
	}
	for i, begins := range []string{`ECR rule 1: "when" is unknown`, "ECR rule 2: images are not moved", "ECR rule 3: images are not moved", `ECR rule 4: tagStatus "all"`} {
		if i >= len(archive.Untranslated) || !strings.HasPrefix(archive.Untranslated[i], begins) {
			t.Errorf("note %d of %q does not begin with %q", i, archive.Untranslated, begins)
		}
	}
}

func TestImportHarbor(t *testing.T) {
	got, err := ImportHarbor("shop/", []byte(`{"id": 1, "algorithm": "or", "colour": "red", "scope": {"level": "project", "ref": 3},
		"trigger": {"kind": "Schedule", "settings": {"cron": "0 0 0 * * *"}, "references": {"job_id": 1}}, "rules": [
		{"action": "retain", "template": "latestPushedK", "params": {"latestPushedK": 10},
		 "tag_selectors": [{"kind": "doublestar", "decoration": "matches", "pattern": "**"}],
		 "scope_selectors": {"repository": [{"kind": "doublestar", "decoration": "repoMatches", "pattern": "{checkout,cart}"}]}},
		{"action": "retain", "template": "nDaysSinceLastPull", "params": {"nDaysSinceLastPull": 7},
		 "tag_selectors": [{"decoration": "matches", "pattern": "**"}],
		 "scope_selectors": {"repository": [{"decoration": "repoMatches", "pattern": "cart"}]}},
		{"action": "retain", "template": "always", "tag_selectors": [{"decoration": "matches", "pattern": "v*"}],
		 "scope_selectors": {"repository": [{"decoration": "repoMatches", "pattern": "**"}]}},
		{"disabled": true, "template": "always"},
		{"action": "retain", "template": "nothing", "params": {}},
		{"action": "retain", "template": "latestPulledN", "params": {"latestPulledN": 5},
		 "tag_selectors": [{"decoration": "excludes", "pattern": "tmp*"}],
		 "scope_selectors": {"repository": [{"decoration": "repoExcludes", "pattern": "x"}, {"decoration": "repoMatches", "pattern": "late"}]}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	const want = `rules:
- match: "shop/checkout"
  keepLast: 10
- match: "shop/cart"
  keepLast: 10
  keepPulledFor: 1w
- match: "shop/**"
  keepTags: ["v*"]
`
	if got.Text != want {
		t.Errorf("got\n%swant\n%s", got.Text, want)
	}
	all := strings.Join(got.Untranslated, "\n")
	for _, part := range []string{"rule 4: it is disabled", "rule 5: it retains nothing", `"colour" is unknown`, "trigger 0 0 0 * * *", "rule 6: only tags that it excludes tmp*", "repoExcludes x", "shop/late: rule 3 (shop/**) decides", "5 most recently pulled"} {
		if !strings.Contains(all, part) {
			t.Errorf("%q is not told of in\n%s", part, all)
		}
	}
	if _, err := ParsePolicy("p", []byte(got.Text)); err != nil {
		t.Errorf("it does not read back: %v", err)
	}
}

func FuzzImport(f *testing.F) {
	f.Add([]byte(`{"rules": [{"rulePriority": 1, "selection": {"tagStatus": "any", "countType": "sinceImagePushed", "countNumber": 3}}]}`))
	f.Add([]byte(`{"rules": [{"template": "latestPushedK", "params": {"latestPushedK": 3}, "scope_selectors": {"repository": [{"decoration": "repoMatches", "pattern": "{a,b}/**"}]}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, got := range []func() (Imported, error){
			func() (Imported, error) { return ImportECR("shop/*", data) },
			func() (Imported, error) { return ImportHarbor("", data) },
		} {
			in, err := got()
			if err != nil {
				continue
			}
			if _, err := ParsePolicy("p", []byte(in.Text)); err != nil && len(in.Text) <= MaxPolicy {
				t.Fatalf("%s\n%v", in.Text, err)
			}
		}
	})
}
