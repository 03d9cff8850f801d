{{/* A pod of collector or drain: (dict "root" $ "component" "drain"). */}}
{{- define "longtail.collectorPod" -}}
{{- $values := .root.Values -}}
{{- $drain := eq .component "drain" -}}
{{- $spools := or $drain (not $values.collector.kafka.servers) -}}
{{- /* Who shares the data volume with the job that checks tells what it found. */}}
{{- $findings := and $spools $values.jobs.monitor.schedule -}}
metadata:
  annotations:
    # Read at the start only.
    longtail.dev/configuration: {{ include "longtail.collectorConfiguration" .root | sha256sum | trunc 16 | quote }}
  labels:
    {{- include "longtail.labels" . | nindent 4 }}
spec:
  serviceAccountName: {{ .root.Release.Name }}-collector
  {{- include "longtail.placement" (dict "root" .root "component" .component "values" dict) | nindent 2 }}
  containers:
    - name: {{ .component }}
      image: {{ include "longtail.image" (dict "root" .root "name" "collector") }}
      imagePullPolicy: {{ $values.image.pullPolicy }}
      {{- if $drain }}
      command: [python, -m, serving.collector.drain]
      args:
        - --state=/var/lib/longtail
        - --config=/etc/longtail/collector.yaml
        - --metrics_port=8080
      {{- else }}
      command: [python, -m, serving.collector]
      args:
        - --state=/var/lib/longtail
        - --port=8080
        - --config=/etc/longtail/collector.yaml
        {{- if include "longtail.redis" .root }}
        - --live=$(LONGTAIL_REDIS_URL)
        {{- end }}
        {{- if $values.secrets.apiKeys.name }}
        - --guard=/etc/longtail-guard/guard.yaml
        {{- end }}
      {{- end }}
        {{- if $findings }}
        - --findings=/var/lib/longtail-monitoring/monitor.prom
        {{- end }}
      env:
        {{- include "longtail.serverEnv" .root | nindent 8 }}
        {{- if not $drain }}
        {{- with include "longtail.secretEnv" .root }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- end }}
      ports:
        - {name: http, containerPort: 8080, protocol: TCP}
      {{- if $drain }}
      livenessProbe:
        httpGet: {path: /metrics, port: 8080}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- else }}
      readinessProbe:
        httpGet: {path: /readyz, port: 8080}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 2
      livenessProbe:
        httpGet: {path: /healthz, port: 8080}
        initialDelaySeconds: 10
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      lifecycle:
        {{- include "longtail.leave" .root | nindent 8 }}
      {{- end }}
      resources:
        {{- toYaml $values.collector.resources | nindent 8 }}
      securityContext:
        {{- include "longtail.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - {name: configuration, mountPath: /etc/longtail, readOnly: true}
        - {name: tmp, mountPath: /tmp}
        {{- if $spools }}
        - {name: data, mountPath: /var/lib/longtail, subPath: serving}
        {{- if $findings }}
        - {name: data, mountPath: /var/lib/longtail-monitoring, subPath: monitoring, readOnly: true}
        {{- end }}
        {{- else }}
        - {name: state, mountPath: /var/lib/longtail}
        {{- end }}
        {{- if and $values.secrets.apiKeys.name (not $drain) }}
        - {name: guard, mountPath: /etc/longtail-guard, readOnly: true}
        {{- end }}
  volumes:
    - name: configuration
      configMap: {name: {{ .root.Release.Name }}-collector}
    - name: tmp
      emptyDir: {sizeLimit: 1Gi}
    {{- if $spools }}
    - name: data
      persistentVolumeClaim: {claimName: {{ include "longtail.dataClaim" .root | quote }}}
    {{- else }}
    - name: state
      emptyDir: {sizeLimit: 1Gi}
    {{- end }}
    {{- if and $values.secrets.apiKeys.name (not $drain) }}
    - name: guard
      secret:
        secretName: {{ $values.secrets.apiKeys.name | quote }}
        items:
          - {key: {{ $values.secrets.apiKeys.key | quote }}, path: guard.yaml}
    {{- end }}
{{- end -}}
