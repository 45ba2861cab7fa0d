<%inherit file="t2-4m_details-base.mako"/>

<%block name="title">Clean masks of the sources found</%block>

% if problem:
<div class="alert alert-danger">No masks: ${problem | h}</div>
% else:
<p>The sources of hifx_deepfocus, drawn on the grid of each image that hif_makeimages is to make: ellipses of one FWHM to
each side, over the channels of their lines where the continuum is subtracted. Images without a mask here get the
pipeline's own.</p>
<table class="table table-bordered table-striped table-condensed">
  <caption>Images to be made, and their masks</caption>
  <thead><tr><th>Field</th><th>Spw</th><th>Image</th><th>Mask</th><th>Pixels</th><th>Share [%]</th><th>Channels</th></tr></thead>
  <tbody>
  % for about in made:
    <tr class="${"" if about["mask"] else "warning" if about["failed"] else "info"}">
      <td>${about["field"] | h}</td><td>${about["spw"] | h}</td><td>${about["specmode"] | h}</td>
      % if about["mask"]:
      <td>${about["mask"] | h}</td><td>${about["pixels"]}</td><td>${"%.3g" % (100 * about["share"])}</td>
      <td>${f'{about["nchan"]} from {about["start"]}' if about["start"] else "all" | h}</td>
      % else:
      <td colspan="4">the pipeline's own: ${about["reason"] | h}</td>
      % endif
    </tr>
  % endfor
  </tbody>
</table>
% endif
