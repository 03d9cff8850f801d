{{- define "longtail.labels" -}}
app.kubernetes.io/name: longtail
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "longtail.metadata" -}}
name: "{{ .root.Release.Name }}{{ with .name }}-{{ . }}{{ end }}"
namespace: {{ .root.Release.Namespace | quote }}
labels:
  helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version | replace "+" "_" }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  {{- include "longtail.labels" . | nindent 2 }}
{{- end -}}

{{/* One of our images: (dict "root" $ "name" "retriever" "gpu" false). */}}
{{- define "longtail.image" -}}
{{- $image := .root.Values.image -}}
{{- with $image.registry }}{{ trimSuffix "/" . }}/{{ end -}}
longtail-{{ .name }}:{{ $image.tag | default .root.Chart.AppVersion }}{{ if .gpu }}-gpu{{ end }}
{{- end -}}

{{/* "true" where something needs the data volume. */}}
{{- define "longtail.writesData" -}}
{{- if or .Values.collector.enabled (ne .Values.recommender.impressions "off") (include "longtail.jobs" .) -}}true{{- end -}}
{{- end -}}

{{- define "longtail.dataClaim" -}}
{{- .Values.data.existingClaim | default (printf "%s-data" .Release.Name) -}}
{{- end -}}

{{/* "true" where there is a Redis. */}}
{{- define "longtail.redis" -}}
{{- if or .Values.redis.enabled .Values.redis.external.secret -}}true{{- end -}}
{{- end -}}

{{/* Environment that some components need: a list, or nothing. */}}
{{- define "longtail.secretEnv" -}}
{{- $env := list (include "longtail.redisEnv" . | trim) (include "longtail.pseudonymEnv" . | trim) -}}
{{- join "\n" (without $env "") -}}
{{- end -}}

{{- define "longtail.redisEnv" -}}
{{- if .Values.redis.enabled -}}
- name: LONGTAIL_REDIS_URL
  value: redis://{{ .Release.Name }}-redis:6379/0
{{- else if .Values.redis.external.secret -}}
- name: LONGTAIL_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.external.secret | quote }}, key: {{ .Values.redis.external.key | quote }}}
{{- end }}
{{- end -}}

{{- define "longtail.pseudonymEnv" -}}
{{- with .Values.secrets.pseudonymKey }}{{ if .name -}}
- name: LONGTAIL_PSEUDONYM_KEY
  valueFrom:
    secretKeyRef: {name: {{ .name | quote }}, key: {{ .key | quote }}}
{{- end }}{{ end }}
{{- end -}}
