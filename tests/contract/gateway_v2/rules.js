// What every set shares: the facets that the library does not check, and the question to the tests' rules.
const secondsOf = (text) => {
  const found = /^PT(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?$/.exec(text || '');
  return found && (Number(found[1]) || 0) * 3600 + (Number(found[2]) || 0) * 60 + (Number(found[3]) || 0);
};
const millisecondsOf = (text) => { const found = /^\/Date\((-?\d+)(?:[+-]\d+)?\)\/$/.exec(text || ''); return found && Number(found[1]); };

// "6.0000000000000000E+02", as a Gateway writes doubles
const double = (number) => {
  const [mantissa, exponent] = Number(number).toExponential(16).split('e');
  return `${mantissa}E${exponent[0]}${exponent.slice(1).padStart(2, '0')}`;
};

const fail = (mock, status, document) => mock.throwError(document.error.message.value, status, document);
const invalid = (mock, name) => fail(mock, 400, { error: { code: '/IWCOR/CX_DS_EDM_FACET_ERROR', message: { lang: 'en', value: `Property ${name} has an invalid value` } } });

const check = (mock, set, entity, request) => {
  const properties = Object.fromEntries(request.dataAccess.getMetadata().getEntitySet(set).entityType.entityProperties.map((item) => [item.name, item]));
  for (const name of Object.keys(entity)) if (!properties[name] && name !== '__metadata') invalid(mock, name);
  for (const [name, property] of Object.entries(properties)) {
    if (property.type === 'Edm.String' && property.maxLength && String(entity[name] || '').length > property.maxLength) invalid(mock, name);
    if (property.type === 'Edm.Double' && Number.isNaN(Number(entity[name] || 0))) invalid(mock, name);
  }
};

const ask = async (mock, kind, request, fields) => {
  const answer = await fetch(`${process.env.RULES}/${request.tenantId.replace('tenant-', '')}/${kind}`, { method: 'POST', body: JSON.stringify(fields) });
  const said = await answer.json();
  if (said.refused) fail(mock, said.status, said.refused);
  return said;
};

const compare = { eq: (a, b) => a === b, ne: (a, b) => a !== b, gt: (a, b) => a > b, ge: (a, b) => a >= b, lt: (a, b) => a < b, le: (a, b) => a <= b };
const bare = (literal) => String(literal).replace(/^[a-z]*'|'$/g, '');

// Comparisons that the library gets wrong for version 2.
const checkFilterValue = function (type, held, literal, operator, request) {
  if (!compare[operator]) return this.base.checkFilterValue(type, held, literal, operator, request);
  if (type === 'Edm.Double') return compare[operator](Number(held), parseFloat(literal));
  if (type === 'Edm.Time') return compare[operator](secondsOf(held), secondsOf(bare(literal)));
  if (type === 'Edm.DateTimeOffset' || type === 'Edm.DateTime') return compare[operator](millisecondsOf(held), Date.parse(bare(literal).replace(/(T[\d:.]+)$/, '$1Z')));
  return this.base.checkFilterValue(type, held, literal, operator, request);
};

module.exports = { secondsOf, millisecondsOf, double, check, ask, checkFilterValue };
