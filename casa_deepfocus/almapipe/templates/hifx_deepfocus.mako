<%!
import html
import pipeline.infrastructure.renderer.htmlrenderer as hr
%>
<%inherit file="t2-4m_details-base.mako"/>

<%block name="title">Sources and lines of dirty cubes</%block>

% if problem:
<div class="alert alert-danger">Nothing was searched: ${problem | h}</div>
% endif

% if targets:
<p>Dirty cubes of the science targets (data type ${datatype | h}) were searched for sources, in the continuum and in
lines, without CLEAN. Ranges without lines were written into cont.dat where it had none: hif_findcont keeps them. The
sources become clean masks in hifx_deepfocus_masks. Numbers are those of the data; component lists and all reports are
in ${archive | h}, which goes to the auxiliary products.</p>
% endif

% for target in targets:
<h2>${target["name"] | h}</h2>

<table class="table table-bordered table-striped table-condensed">
  <caption>Images searched of ${target["name"] | h}</caption>
  <thead>
    <tr><th>Image</th><th>Band [GHz]</th><th>Channels</th><th>Beam [arcsec]</th><th>Noise [mJy/beam]</th><th>Sources</th>
        <th>With a line</th><th>Free of lines</th><th>cont.dat</th><th>Time [s]</th><th>Products</th></tr>
  </thead>
  <tbody>
  % for cube in target["cubes"]:
    % if cube["done"]:
    <tr>
      <td title="${cube["window"] | h}">${cube["label"] | h}</td>
      <td>${cube["band"]}</td><td>${cube["nchan"]}</td><td>${cube["beam"]}</td><td>${cube["noise"]}</td>
      <td>${cube["rows"]}</td><td>${cube["lines"]}</td>
      <td title="${"; ".join(cube["free"]) | h}">${cube["share"]}</td><td>${cube["handed"] | h}</td>
      <td>${cube["seconds"]}</td>
      <td>
      % for link in cube["links"]:
        <a href="${link["href"] | h}" target="_blank">${link["name"]}</a>${"" if loop.last else " | "}
      % endfor
      </td>
    </tr>
    % else:
    <tr class="warning"><td>${cube["label"] | h}</td><td colspan="10">not searched: ${cube["reason"] | h}</td></tr>
    % endif
  % endfor
  </tbody>
</table>

% if any(cube["picture"] for cube in target["cubes"]):
<div class="row">
% for cube in target["cubes"]:
  % if cube["picture"]:
  <div class="col-md-4">
    <div class="thumbnail">
      <a href="${cube["picture"] | h}" data-fancybox="${target["name"] | h}" data-caption="${target["name"] | h}, ${cube["label"] | h}">
        <img class="lazyload" data-src="${cube["picture"] | h}" src="${cube["picture"] | h}" alt="integrated dirty image and sources">
      </a>
      <div class="caption"><h4>${cube["label"] | h}</h4>
      <p>Integrated dirty image in sigma; boxes: red with a line, blue without.</p></div>
    </div>
  </div>
  % endif
% endfor
</div>
% endif

% for cube in target["cubes"]:
% if cube["sources"]:
<table class="table table-bordered table-striped table-condensed">
  <caption>Sources of ${target["name"] | h}, ${cube["label"] | h}</caption>
  <thead><tr>
  % for head in ("Name", "RA", "Dec", "Frequency [GHz]", "Line FWHM [km/s]", "Line flux [Jy km/s]", "Continuum [mJy]", "SNR", "Flags"):
    <th>${head}</th>
  % endfor
  </tr></thead>
  <tbody>
  % for row in cube["sources"]:
    <tr>
    % for cell in row:
      <td>${cell | h}</td>
    % endfor
    </tr>
  % endfor
  </tbody>
</table>
% endif
% endfor
% endfor

% if left_out:
<h3>Left out</h3>
<ul>
% for text in left_out:
  <li>${text | h}</li>
% endfor
</ul>
% endif
