{{/*
A CronJob that runs `longtail ARGS`: (dict "root" $ "name" "precompute" "schedule" "0 4 * * *" "args" list "retries" 1
"pipelines" true), with a token for Kubeflow Pipelines where it says so. It finds the surfaces at /etc/longtail, the files of jobs at
/etc/longtail-jobs.
*/}}
{{- define "longtail.cronJob" -}}
{{- $values := .root.Values -}}
{{- $champion := $values.variants.champion.uri -}}
apiVersion: batch/v1
kind: CronJob
metadata:
  {{- include "longtail.metadata" (dict "root" .root "name" .name "component" .name) | nindent 2 }}
spec:
  schedule: {{ .schedule | quote }}
  timeZone: Etc/UTC
  concurrencyPolicy: Forbid
  startingDeadlineSeconds: 3600
  successfulJobsHistoryLimit: 2
  failedJobsHistoryLimit: 3
  jobTemplate:
    spec:
      backoffLimit: {{ .retries }}
      activeDeadlineSeconds: {{ $values.jobs.deadlineSeconds }}
      ttlSecondsAfterFinished: 604800
      template:
        metadata:
          labels:
            {{- include "longtail.labels" (dict "root" .root "component" .name) | nindent 12 }}
        spec:
          serviceAccountName: {{ .root.Release.Name }}-jobs
          automountServiceAccountToken: false
          enableServiceLinks: false
          restartPolicy: Never
          securityContext:
            {{- include "longtail.podSecurity" .root | nindent 12 }}
          {{- with $values.image.pullSecrets }}
          imagePullSecrets:
            {{- range . }}
            - name: {{ . | quote }}
            {{- end }}
          {{- end }}
          containers:
            - name: {{ .name }}
              image: {{ include "longtail.image" (dict "root" .root "name" "pipelines") }}
              imagePullPolicy: {{ $values.image.pullPolicy }}
              command: [longtail]
              args:
                {{- toYaml .args | nindent 16 }}
              env:
                - {name: HOME, value: /tmp}
                {{- if .pipelines }}
                - {name: KF_PIPELINES_SA_TOKEN_PATH, value: /var/run/secrets/kubeflow/pipelines/token}
                {{- end }}
                - {name: LONGTAIL_AUDIT, value: /data/audit.jsonl}
                - {name: LONGTAIL_ACTOR, value: {{ .root.Release.Name }}-{{ .name }}}
                {{- with $values.jobs.registry }}
                - {name: LONGTAIL_REGISTRY, value: {{ . | quote }}}
                {{- end }}
                {{- with include "longtail.secretEnv" .root }}
                {{- . | nindent 16 }}
                {{- end }}
              {{- with $values.jobs.secret }}
              envFrom:
                - secretRef: {name: {{ . | quote }}}
              {{- end }}
              resources:
                {{- toYaml $values.jobs.resources | nindent 16 }}
              securityContext:
                {{- include "longtail.containerSecurity" .root | nindent 16 }}
              volumeMounts:
                - {name: data, mountPath: /data}
                - {name: tmp, mountPath: /tmp}
                {{- if .pipelines }}
                - {name: pipelines-token, mountPath: /var/run/secrets/kubeflow/pipelines, readOnly: true}
                {{- end }}
                {{- if include "longtail.jobFiles" .root }}
                - {name: files, mountPath: /etc/longtail-jobs, readOnly: true}
                {{- end }}
                {{- if $values.surfaces }}
                - {name: surfaces, mountPath: /etc/longtail, readOnly: true}
                {{- end }}
                {{- if and (hasPrefix "pvc://" $champion) (not $values.jobs.registry) }}
                - {name: bundle, mountPath: /mnt/claims/{{ include "longtail.claim" $champion }}, readOnly: true}
                {{- end }}
          volumes:
            - name: data
              persistentVolumeClaim: {claimName: {{ include "longtail.dataClaim" .root | quote }}}
            - name: tmp
              emptyDir: {}
            {{- if .pipelines }}
            # Kubeflow Pipelines asks who submits; the Kubernetes API does not take this one.
            - name: pipelines-token
              projected:
                sources:
                  - serviceAccountToken: {path: token, audience: pipelines.kubeflow.org, expirationSeconds: 7200}
            {{- end }}
            {{- if include "longtail.jobFiles" .root }}
            - name: files
              configMap: {name: {{ .root.Release.Name }}-jobs}
            {{- end }}
            {{- if $values.surfaces }}
            - name: surfaces
              configMap: {name: {{ .root.Release.Name }}-surfaces}
            {{- end }}
            {{- if and (hasPrefix "pvc://" $champion) (not $values.jobs.registry) }}
            - name: bundle
              persistentVolumeClaim: {claimName: {{ include "longtail.claim" $champion | quote }}, readOnly: true}
            {{- end }}
{{- end -}}

{{/* Files that jobs read: name: content. */}}
{{- define "longtail.jobFiles" -}}
{{- with .Values.jobs.monitor }}{{ if and .schedule .settings }}
monitor.yaml: |
  {{- toYaml .settings | nindent 2 }}
{{- end }}{{ end }}
{{- with .Values.jobs.retrain }}{{ if .schedule }}
retrain.yaml: |
  {{- toYaml .policy | nindent 2 }}
{{- with .platform }}
platform.yaml: |
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}{{ end }}
{{- end -}}

{{/* The bundle that jobs look at: the registry's champion, or the one on the claim. */}}
{{- define "longtail.jobBundle" -}}
{{- ternary "champion" (include "longtail.bundlePath" .Values.variants.champion.uri) (ne .Values.jobs.registry "") -}}
{{- end -}}

{{/* "true" where some job has a time. */}}
{{- define "longtail.jobs" -}}
{{- with .Values.jobs }}{{ if or .precompute.schedule .monitor.schedule .retrain.schedule }}true{{ end }}{{ end -}}
{{- end -}}
