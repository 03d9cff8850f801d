{{/*
Where a bundle lies in a pod. KServe mounts the whole claim of a `pvc://` uri whatever its path, so a claim is mounted once; anything
else is downloaded into a folder named after its uri, so that a path never means two bundles.
*/}}
{{- define "longtail.bundlePath" -}}
{{- if hasPrefix "pvc://" . -}}
/mnt/claims/{{ trimPrefix "pvc://" . | trimSuffix "/" }}
{{- else -}}
/mnt/models/{{ sha256sum . | trunc 8 }}
{{- end -}}
{{- end -}}

{{/* The claim of a `pvc://` uri. */}}
{{- define "longtail.claim" -}}
{{- index (splitList "/" (trimPrefix "pvc://" .)) 0 -}}
{{- end -}}

{{/* Names of the variants: champion, then the others by name. */}}
{{- define "longtail.variants" -}}
{{- concat (list "champion") (without (keys .Values.variants | sortAlpha) "champion") | toJson -}}
{{- end -}}

{{/* Uris of the variants, each once. */}}
{{- define "longtail.uris" -}}
{{- $uris := list -}}
{{- range include "longtail.variants" . | fromJsonArray -}}
{{- $uris = append $uris (index $.Values.variants .).uri -}}
{{- end -}}
{{- uniq $uris | toJson -}}
{{- end -}}

{{/* The deployment ConfigMap as a pipeline's deploy step left it, empty where none did. */}}
{{- define "longtail.deployed" -}}
{{- if .Values.keepDeployed -}}
{{- $live := lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-deployment" .Release.Name) -}}
{{- if hasKey ((($live).metadata).annotations | default dict) "longtail.dev/deployed" -}}
{{- $live | toJson -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* storageUris of a KServe component: (dict "root" $ "service" "retriever"). */}}
{{- define "longtail.storageUris" -}}
{{- $live := dict -}}
{{- if include "longtail.deployed" .root -}}
{{- $live = lookup "serving.kserve.io/v1beta1" "InferenceService" .root.Release.Namespace (printf "%s-%s" .root.Release.Name .service) -}}
{{- end -}}
{{- with ((($live).spec).predictor).storageUris -}}
storageUris:
{{- toYaml . | nindent 2 }}
{{- else -}}
{{- include "longtail.storageUrisOfVariants" .root -}}
{{- end -}}
{{- end -}}

{{- define "longtail.storageUrisOfVariants" -}}
{{- $seen := dict -}}
storageUris:
{{- range include "longtail.uris" . | fromJsonArray }}
{{- $path := include "longtail.bundlePath" . }}
{{- $uri := . }}
{{- if hasPrefix "pvc://" $uri }}
{{- $claim := include "longtail.claim" $uri }}
{{- $uri = printf "pvc://%s" $claim }}
{{- $path = printf "/mnt/claims/%s" $claim }}
{{- end }}
{{- if not (hasKey $seen $path) }}
  - uri: {{ $uri | quote }}
    mountPath: {{ $path | quote }}
{{- end }}
{{- $_ := set $seen $path true }}
{{- end }}
{{- end -}}

{{/* The deployment file that servers follow. */}}
{{- define "longtail.deployment" -}}
variants:
{{- range include "longtail.variants" . | fromJsonArray }}
{{- $variant := index $.Values.variants . }}
  {{ . | quote }}: {bundle: {{ include "longtail.bundlePath" $variant.uri }}, share: {{ $variant.share }}}
{{- end }}
{{- end -}}

{{/* /etc/longtail: (dict "root" $ "guard" true "surfaces" true). Projected, so that changes reach running servers. */}}
{{- define "longtail.configuration" -}}
- name: configuration
  projected:
    sources:
      - configMap: {name: {{ .root.Release.Name }}-deployment}
      {{- if and .surfaces .root.Values.surfaces }}
      - configMap: {name: {{ .root.Release.Name }}-surfaces}
      {{- end }}
      {{- if and .guard .root.Values.secrets.apiKeys.name }}
      - secret:
          name: {{ .root.Values.secrets.apiKeys.name | quote }}
          items:
            - {key: {{ .root.Values.secrets.apiKeys.key | quote }}, path: guard.yaml}
      {{- end }}
{{- end -}}
