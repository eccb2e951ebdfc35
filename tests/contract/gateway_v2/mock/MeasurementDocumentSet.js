const { secondsOf, millisecondsOf, double, check, ask, checkFilterValue } = require('../rules');

const DAY = 86400000;

module.exports = {
  getInitialDataSet: () => [],
  generateKey: () => 'PENDING',
  hasEntries: () => true, // else a read by key on an empty set invents an entity
  checkFilterValue,
  async onBeforeAddEntry(keys, entity, request) {
    check(this, 'MeasurementDocumentSet', entity, request);
    const day = millisecondsOf(entity.MsmtRdngDate), seconds = secondsOf(entity.MsmtRdngTime);
    const at = day === null || seconds === null ? null : Math.floor(day / DAY) * DAY + seconds * 1000;
    const made = await ask(this, 'documents', request, {
      point: entity.MeasuringPoint || '',
      at: at === null ? null : new Date(at).toISOString().slice(0, 19),
      value: entity.MeasurementReadingInEntryUoM === undefined ? null : Number(entity.MeasurementReadingInEntryUoM),
      unit: entity.MeasurementReadingEntryUoM || '',
      text: entity.MeasurementDocumentText || '',
      difference: Boolean(entity.MsmtCntrReadingDiffIsEntered),
    });
    if (made.warning) request.addResponseHeader('sap-message', JSON.stringify({ code: 'IR/WARNING', message: made.warning, severity: 'warning', details: [] }));
    Object.assign(entity, {
      MeasurementDocument: made.number,
      MeasuringPoint: made.point,
      MsmtRdngDate: `/Date(${Math.floor(at / DAY) * DAY})/`,
      MeasurementReadingEntryUoM: made.unit,
      MeasurementReading: double(made.si),
      MeasurementReadingInEntryUoM: double(made.entry),
      MeasurementCounterReading: double(made.counter),
      MsmtRdngIsReversed: false,
    });
  },
};
