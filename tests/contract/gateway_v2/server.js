// An OData V2 Gateway as SAP's customers have it: fe-mockserver-core (SAP's, Apache-2.0) with two services, and what that library lacks.
// Rules of SAP are not here: each new entity is told to the tests' SapRules over HTTP. Prints "READY <port>".
const express = require('express');
const path = require('path');
const MockServer = require('@sap-ux/fe-mockserver-core').default;

const DOCUMENTS = '/sap/opu/odata/sap/Z_MEASDOC_SRV';
const NOTIFICATIONS = '/sap/opu/odata/sap/API_MAINTNOTIFICATION';
const SETS = { [DOCUMENTS]: ['MeasurementDocumentSet', 'MeasuringPointSet', 'NotificationSet'], [NOTIFICATIONS]: ['MaintenanceNotification'] };

const envelope = (code, value) => JSON.stringify({ error: { code, message: { lang: 'en', value }, innererror: { errordetails: [] } } });

// Its $filter parser knows neither time'..' nor datetimeoffset'..' of version 2, nor a part encoded as %28.
const readable = (text) => text.replace(/%28/g, '(').replace(/%29/g, ')').replace(/(%20|[ +(])time(?='|%27)/g, '$1');

const service = (urlPath, edmx) => ({
  urlPath, metadataPath: path.join(process.env.EDMX, edmx), mockdataPath: path.join(__dirname, 'mock'), generateMockData: false, noETag: true, strictKeyMode: true,
});

(async () => {
  const mock = new MockServer({ services: [service(DOCUMENTS, 'z_measdoc.v2.edmx'), service(NOTIFICATIONS, 'notification.v2.edmx')] });
  await mock.isReady;
  const app = express();
  app.disable('x-powered-by');
  app.use(express.raw({ type: () => true, limit: '20mb' })); // its own parser stops at 100 kB and hides that
  app.use((request, response, next) => {
    request.url = request.originalUrl = readable(request.url);
    const root = request.path.startsWith(NOTIFICATIONS) ? NOTIFICATIONS : DOCUMENTS;
    const set = (request.path.slice(root.length + 1).match(/^[A-Za-z_]\w*/) || [])[0];
    if (!request.path.startsWith(root) || (set && !SETS[root].includes(set))) {
      return response.status(404).type('json').send(envelope('005056A509B11EE1B9A8FEC11C21D78E', `Resource not found for the segment '${set}'.`));
    }
    if (request.path.endsWith('/$batch')) {
      const writeHead = response.writeHead; // SAP Gateway answers 202
      response.writeHead = (status, ...rest) => writeHead.call(response, status === 200 ? 202 : status, ...rest);
      if (Buffer.isBuffer(request.body)) request.body = Buffer.from(request.body.toString('utf8').replace(/^(GET [^\r\n]*)/gm, readable));
    }
    return next();
  });
  app.use(mock.getRouter());
  const listening = app.listen(0, '127.0.0.1', () => console.log(`READY ${listening.address().port}`));
})();
