// Package docker has no code; its tests check the image and the composition
// without a container engine.
package docker

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

type service struct {
	Image       string            `yaml:"image"`
	Build       map[string]string `yaml:"build"`
	Command     []string          `yaml:"command"`
	DependsOn   yaml.Node         `yaml:"depends_on"`
	Environment map[string]string `yaml:"environment"`
	Ports       []string          `yaml:"ports"`
	Volumes     []string          `yaml:"volumes"`
	Healthcheck map[string]any    `yaml:"healthcheck"`
	Restart     string            `yaml:"restart"`
	StopGrace   string            `yaml:"stop_grace_period"`
}

func TestCompose(t *testing.T) {
	f, err := os.Open("compose.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var compose struct {
		Name     string             `yaml:"name"`
		Services map[string]service `yaml:"services"`
		Volumes  map[string]any     `yaml:"volumes"`
	}
	d := yaml.NewDecoder(f)
	d.KnownFields(true)
	if err := d.Decode(&compose); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"postgresql", "temporal", "temporal-ui", "minio", "worker-cpu", "worker-rollout", "worker-train"} {
		if _, ok := compose.Services[name]; !ok {
			t.Errorf("service %s is missing", name)
		}
	}
	for name, s := range compose.Services {
		if (s.Image == "") == (s.Build == nil) {
			t.Errorf("%s: want an image or a build, one of them", name)
		}
		if s.Image != "" && (!strings.Contains(s.Image, ":") || strings.HasSuffix(s.Image, ":latest")) {
			t.Errorf("%s: image %s is not pinned", name, s.Image)
		}
		for _, p := range s.Ports {
			if !strings.HasPrefix(p, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network", name, p)
			}
		}
		for key, v := range s.Environment {
			if secret := regexp.MustCompile(`PASSWORD|PWD|SECRET|ACCESS_KEY`); secret.MatchString(key) && !strings.HasPrefix(v, "${") {
				t.Errorf("%s: %s is written into the file", name, key)
			}
		}
		for _, v := range s.Volumes {
			if volume, _, _ := strings.Cut(v, ":"); !slices.Contains([]string{"postgresql", "minio"}, volume) {
				t.Errorf("%s: volume %s is not declared", name, volume)
			}
		}
		if role, ok := strings.CutPrefix(name, "worker-"); ok {
			if i := slices.Index(s.Command, "--role"); i < 0 || s.Command[i+1] != role {
				t.Errorf("%s runs %v", name, s.Command)
			}
		}
	}
}

func TestDockerfile(t *testing.T) {
	raw, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages, user := 0, ""
	for line := range strings.Lines(string(raw)) {
		word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch word {
		case "FROM":
			stages++
			user = ""
			if image := strings.Fields(rest)[0]; !strings.Contains(image, ":") || strings.HasSuffix(image, ":latest") {
				t.Errorf("image %s is not pinned", image)
			}
		case "USER":
			user = rest
		case "", "#", "WORKDIR", "COPY", "RUN", "ENV", "ENTRYPOINT", "CMD":
		default:
			t.Errorf("instruction %q", word)
		}
	}
	if stages < 2 || user == "" || strings.HasPrefix(user, "root") {
		t.Errorf("%d stages, last user %q; want several stages and a user other than root", stages, user)
	}
}
