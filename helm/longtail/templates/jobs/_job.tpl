{{/* A CronJob that runs `longtail ARGS`: (dict "root" $ "name" "precompute" "schedule" "0 4 * * *" "args" list). */}}
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
      backoffLimit: 1
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
            - name: {{ . }}
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
                {{- with $values.jobs.registry }}
                - {name: LONGTAIL_REGISTRY, value: {{ . | quote }}}
                {{- end }}
                {{- with include "longtail.secretEnv" .root }}
                {{- . | nindent 16 }}
                {{- end }}
              {{- with $values.jobs.secret }}
              envFrom:
                - secretRef: {name: {{ . }}}
              {{- end }}
              resources:
                {{- toYaml $values.jobs.resources | nindent 16 }}
              securityContext:
                {{- include "longtail.containerSecurity" .root | nindent 16 }}
              volumeMounts:
                - {name: data, mountPath: /data}
                - {name: tmp, mountPath: /tmp}
                {{- if $values.surfaces }}
                - {name: surfaces, mountPath: /etc/longtail, readOnly: true}
                {{- end }}
                {{- if and (hasPrefix "pvc://" $champion) (not $values.jobs.registry) }}
                - {name: bundle, mountPath: /mnt/claims/{{ include "longtail.claim" $champion }}, readOnly: true}
                {{- end }}
          volumes:
            - name: data
              persistentVolumeClaim: {claimName: {{ include "longtail.dataClaim" .root }}}
            - name: tmp
              emptyDir: {}
            {{- if $values.surfaces }}
            - name: surfaces
              configMap: {name: {{ .root.Release.Name }}-surfaces}
            {{- end }}
            {{- if and (hasPrefix "pvc://" $champion) (not $values.jobs.registry) }}
            - name: bundle
              persistentVolumeClaim: {claimName: {{ include "longtail.claim" $champion }}, readOnly: true}
            {{- end }}
{{- end -}}
