{{/*
A Grafana dashboard out of a file of `dashboards/`: title, and rows of panels with title, unit, what the figure means, and queries by
legend. Three panels stand beside each other.
*/}}
{{- define "longtail.dashboard" -}}
{{- $source := dict "type" "prometheus" "uid" "${datasource}" -}}
{{- $panels := list -}}
{{- $y := 0 -}}
{{- $id := 1 -}}
{{- range .rows -}}
{{- $place := dict "x" 0 "y" $y "w" 24 "h" 1 -}}
{{- $panels = append $panels (dict "id" $id "type" "row" "title" .title "collapsed" false "gridPos" $place "panels" list) -}}
{{- $id = add1 $id -}}
{{- $y = add1 $y -}}
{{- range $n, $panel := .panels -}}
{{- $place := dict "x" (mul 8 (mod $n 3)) "y" (add $y (mul 8 (div $n 3))) "w" 8 "h" 8 -}}
{{- $targets := list -}}
{{- range $legend, $query := $panel.queries -}}
{{- $targets = append $targets (dict "refId" (printf "Q%d" (len $targets)) "expr" $query "legendFormat" $legend "datasource" $source) -}}
{{- end -}}
{{- $drawn := dict "drawStyle" "line" "lineWidth" 1 "fillOpacity" 10 "showPoints" "never" -}}
{{- $field := dict "defaults" (dict "unit" $panel.unit "min" 0 "custom" $drawn) "overrides" list -}}
{{- $options := dict "legend" (dict "displayMode" "list" "placement" "bottom") "tooltip" (dict "mode" "multi" "sort" "desc") -}}
{{- $panels = append $panels (dict "id" $id "type" "timeseries" "title" $panel.title "description" $panel.about
  "datasource" $source "gridPos" $place "fieldConfig" $field "options" $options "targets" $targets) -}}
{{- $id = add1 $id -}}
{{- end -}}
{{- $y = add $y (mul 8 (div (add (len .panels) 2) 3)) -}}
{{- end -}}
{{- $variables := list
  (dict "name" "datasource" "label" "Prometheus" "type" "datasource" "query" "prometheus")
  (dict "name" "namespace" "label" "Namespace" "type" "query" "datasource" $source "refresh" 2
    "query" "label_values(longtail_lists_total, namespace)") -}}
{{- dict "uid" .uid "title" .title "tags" (list "longtail") "schemaVersion" 39 "version" 1 "editable" true "refresh" "30s"
  "time" (dict "from" "now-6h" "to" "now") "templating" (dict "list" $variables) "panels" $panels | toPrettyJson -}}
{{- end -}}
